//! Writes the CustomResourceDefinitions to the folder that is given (`crds/yaml` and the chart's in this repository).

use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = env::args().nth(1).ok_or("usage: crdgen FOLDER")?;
    for (name, definition) in firebreak_crds::resources::yaml()? {
        fs::write(Path::new(&folder).join(format!("{name}.yaml")), serde_saphyr::to_string(&definition)?)?;
    }
    Ok(())
}
