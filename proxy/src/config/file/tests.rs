use std::{fs, os::unix::fs::symlink, sync::Arc};

use super::*;
use crate::{config::endpoints::FromConfig, net::connections::Connections, telemetry::metrics::Registry};

#[test]
fn labels_are_read_as_the_downward_api_writes_them() {
    let labels = parse_labels("app=\"web\"\npod-template-hash=\"7d4b\"\n\nbroken\n");
    assert_eq!(labels.len(), 2);
    assert_eq!(labels["app"], "web");
}

/// Writes a version the way the kubelet does: a new folder, then one rename of the symlink.
fn project(volume: &std::path::Path, version: &str, document: &str) {
    let folder = volume.join(format!("..{version}"));
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(marks::CONFIG_KEY), document).unwrap();
    symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    let link = volume.join(marks::CONFIG_KEY);
    if !link.is_symlink() {
        symlink(format!("..data/{}", marks::CONFIG_KEY), link).unwrap();
    }
}

#[tokio::test]
async fn a_projected_change_is_seen_and_a_broken_one_changes_nothing() {
    let volume = tempfile::tempdir().unwrap();
    let publisher =
        Arc::new(Publisher::new(&Registry::new(1, Connections::default()), Labels::new(), Box::new(FromConfig)));
    let files = Files { config: volume.path().into(), labels: volume.path().join("labels") };
    let seen = |wanted: fn(&Report) -> bool| {
        let publisher = Arc::clone(&publisher);
        async move {
            while !wanted(&publisher.report()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    };
    let follow = files.follow(&publisher, |document| publisher.publish(document));
    let story = async {
        project(volume.path(), "1", r#"{"format":1,"namespace":"shop"}"#);
        seen(|report| !report.revision.is_empty()).await;
        let good = publisher.report().revision;
        project(volume.path(), "2", r#"{"format":1,"namespace"#);
        seen(|report| report.refused.is_some()).await;
        assert_eq!(publisher.report().revision, good);
        project(volume.path(), "3", r#"{"format":1,"namespace":"shop","transparent":true}"#);
        seen(|report| report.refused.is_none()).await;
        assert_ne!(publisher.report().revision, good);
        assert!(publisher.current().load().transparent);
    };
    tokio::select! {
        () = follow => unreachable!(),
        () = story => {}
        () = tokio::time::sleep(LOOK) => panic!("not seen by events"),
    }
}
