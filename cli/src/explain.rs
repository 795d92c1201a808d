//! `firebreak explain`: what happened to a request, from the flight recorder of the proxy that carried it.
//!
//! The recorder tells facts; words and advice are the proxy's own table, so that command, log and handbook agree. A proxy of
//! another version may have words that this program does not know: they are shown as they are, without advice.

mod table;
mod timeline;
mod told;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use firebreak_proxy::telemetry::access_log::ID;
use hyper::Uri;
use jiff::Timestamp;

use self::told::{Found, NotOne, chosen};
use crate::{
    args::ExplainArgs,
    http::{self, Answer, NoAnswer},
    told as unless_closed,
};

/// For an answer of the admin port.
const PATIENCE: Duration = Duration::from_secs(10);

/// Exit code 1 means that there is no such request in the recorder.
pub(crate) async fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let id: Option<String> = args.id.as_ref().map(|id| id.chars().take(ID).collect());
    let query = match &id {
        Some(id) => format!("id={}", encoded(id)),
        None => format!("limit={}", args.last.unwrap_or_default()),
    };
    let mut found = ask(&args.admin, &query).await?;
    if let Some(id) = &id {
        found.records = match chosen(found.records, id) {
            Ok(records) => records,
            Err(NotOne::None) => {
                anstream::eprintln!("{}", not_found(id, &found.since, &found.slowed_since, &found.proxy));
                return Ok(ExitCode::FAILURE);
            }
            Err(several @ NotOne::Several(_)) => bail!(several),
        };
    }
    let text = if args.json {
        serde_json::to_string_pretty(&found.as_json())? + "\n"
    } else if id.is_some() {
        timeline::text(&found)
    } else {
        table::text(&found)
    };
    unless_closed(write!(anstream::stdout().lock(), "{text}").and_then(|()| io::stdout().flush()))?;
    Ok(ExitCode::SUCCESS)
}

async fn ask(admin: &Uri, query: &str) -> anyhow::Result<Found> {
    let authority = admin.authority().map_or("", |authority| authority.as_str());
    let url = Uri::builder().scheme("http").authority(authority).path_and_query(format!("/recorder?{query}")).build();
    let answer = match http::get(&url.context("the address of the admin port")?, PATIENCE).await {
        Ok(answer) => answer,
        Err(error @ NoAnswer::Connect { .. }) => bail!("{error}\n{}", where_to_find(authority)),
        Err(error) => return Err(error).with_context(|| format!("the admin port at {authority} does not answer")),
    };
    read(&answer).with_context(|| format!("{authority} is not the admin port of a proxy that this program understands"))
}

fn read(answer: &Answer) -> anyhow::Result<Found> {
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "it answers /recorder with {}: {}", answer.status, body.trim_end());
    Found::read(&answer.body)
}

fn where_to_find(authority: &str) -> String {
    let port = authority.rsplit(':').next().unwrap_or_default();
    format!(
        "A pod's admin port is reached from the pod only; in another terminal run\n  kubectl port-forward -n NAMESPACE \
         POD {port}:15020\nFor firebreak local, pass --admin with the address that it prints as `admin`."
    )
}

fn not_found(id: &str, since: &Timestamp, slowed: &Timestamp, proxy: &str) -> String {
    let short = if id.chars().count() < 8 { "\nOf a part of an id at least 8 characters are needed." } else { "" };
    let now = Timestamp::now();
    format!(
        "no failed or slowed request {id} in the flight recorder of {proxy}.{short}\nIt has every request that failed \
         since {} ({} ago)\nand every one that was slowed since {} ({} ago); one that simply succeeded\nleaves no record. \
         A call is recorded by the proxies of the pods that it went through: ask the\ncaller's first. firebreak explain \
         --last lists what there is.",
        moment(since),
        length(now.duration_since(*since)),
        moment(slowed),
        length(now.duration_since(*slowed)),
    )
}

/// A moment as people read it, in UTC.
fn moment(time: &Timestamp) -> String {
    time.strftime("%F %T%.3fZ").to_string()
}

/// Roughly how long.
fn length(length: jiff::SignedDuration) -> String {
    match length.as_secs().max(0) {
        seconds @ ..120 => format!("{seconds} s"),
        seconds @ ..7200 => format!("{} min", seconds / 60),
        seconds @ ..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// A value of a query (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_have_any_characters() {
        assert_eq!(encoded("a-b_c.d~1"), "a-b_c.d~1");
        assert_eq!(encoded("a b&c=ü"), "a%20b%26c%3D%C3%BC");
    }

    #[test]
    fn lengths_are_rough() {
        let text = |seconds| length(jiff::SignedDuration::from_secs(seconds));
        assert_eq!(
            [text(-1), text(90), text(600), text(7200), text(400_000)],
            ["0 s", "90 s", "10 min", "2 h", "4 days"]
        );
    }
}
