use std::{env, io::Read, net::TcpListener};

use clap::Parser;
use socket2::SockRef;

use super::*;

#[derive(Parser)]
struct Init {
    #[command(flatten)]
    args: InitArgs,
}

fn args(flags: &[&str]) -> InitArgs {
    Init::try_parse_from([&["init"], flags].concat()).unwrap().args
}

#[test]
fn the_rules_without_exemptions_of_the_users() {
    let expected = r#"table inet firebreak
delete table inet firebreak
table inet firebreak {
	chain output {
		type nat hook output priority -100; policy accept;
		meta skuid 2119 return
		oifname "lo" return
		meta l4proto tcp redirect to :15001
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		tcp dport 15001 return
		tcp dport 15006 return
		tcp dport 15020 return
		meta l4proto tcp redirect to :15006
	}
}
"#;
    assert_eq!(rules::text(&args(&[])), expected);
}

#[test]
fn every_exemption_stands_before_the_redirection() {
    let text = rules::text(&args(&[
        "--skip-inbound-ports=22,9000-9100",
        "--skip-outbound-ports=3306,3300-3310",
        "--skip-outbound-cidrs=10.0.0.0/8,fd00::/8",
    ]));
    let (outbound, inbound) = text.split_once("redirect to :15001").unwrap();
    let (inbound, _) = inbound.split_once("redirect to :15006").unwrap();
    for rule in ["tcp dport 3306 ", "tcp dport 3300-3310 ", "ip daddr 10.0.0.0/8 ", "ip6 daddr fd00::/8 "] {
        assert!(outbound.contains(&format!("{rule}return")), "{rule} is missing in {outbound}");
    }
    for rule in ["tcp dport 22 ", "tcp dport 9000-9100 "] {
        assert!(inbound.contains(&format!("{rule}return")), "{rule} is missing in {inbound}");
    }
}

#[test]
fn bad_exemptions_are_refused_with_what_would_be_right() {
    let refused = |flag: &str| Init::try_parse_from(["init", flag]).err().unwrap().to_string();
    assert!(refused("--skip-inbound-ports=http").contains("1 to 65535"));
    assert!(refused("--skip-outbound-cidrs=10.0.0.1/8").contains("10.0.0.0/8"));
}

#[test]
fn a_tool_that_is_missing_is_named() {
    let error = run_init(&args(&["--nft=/missing/nft"])).unwrap_err().to_string();
    assert!(error.starts_with("cannot run /missing/nft"), "{error}");
}

#[test]
fn an_error_of_the_tool_is_told_with_advice() {
    // A shell as the tool: it says what nft says without the capability, whatever it is asked.
    let folder = env::temp_dir().join(format!("firebreak-nft-{}", std::process::id()));
    std::fs::write(&folder, "#!/bin/sh\necho 'Error: Operation not permitted' >&2\nexit 1\n").unwrap();
    std::process::Command::new("chmod").arg("755").arg(&folder).status().unwrap();
    let error = run_init(&args(&[&format!("--nft={}", folder.display())])).unwrap_err().to_string();
    std::fs::remove_file(&folder).unwrap();
    assert!(error.contains("Operation not permitted") && error.contains("NET_ADMIN"), "{error}");
}

/// Runs the ignored test `name` of this file in a network namespace of its own, with a default route for both
/// families and a neighbour in a second namespace. Needs root; without it the test fails, for nothing was shown.
fn in_namespace(name: &str) {
    let root = std::fs::read_to_string("/proc/self/status").unwrap().contains("\nUid:\t0\t");
    assert!(root, "needs root to make network namespaces; to leave it out: cargo test -- --skip redirect");
    let script = "set -e; ip link set lo up; mount -t tmpfs none /run; ip netns add there
        ip link add here type veth peer name there netns there
        ip addr add 198.51.100.1/24 dev here; ip addr add fd00:1::1/64 dev here nodad; ip link set here up
        ip -n there addr add 198.51.100.2/24 dev there; ip -n there addr add fd00:1::2/64 dev there nodad
        ip -n there link set there up; ip route add default via 198.51.100.2; ip route add default via fd00:1::2
        exec \"$0\" --exact --ignored --nocapture \"$1\"";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", script])
        .arg(env::current_exe().unwrap())
        .arg(format!("{}::{name}", module_path!().split_once("::").unwrap().1))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn the_rules_do_what_they_say() {
    in_namespace("inside_rules_act");
}

#[test]
fn a_namespace_without_rules_fails_the_check() {
    in_namespace("inside_nothing_is_redirected");
}

#[test]
#[ignore = "runs inside a network namespace that another test makes"]
fn inside_nothing_is_redirected() {
    let error = run_validate(&ValidateArgs { outbound: args(&[]).outbound }).unwrap_err().to_string();
    assert!(error.contains("a connection to 192.0.2.1:80 did not arrive at port 15001"), "{error}");
}

#[test]
#[ignore = "runs inside a network namespace that another test makes"]
fn inside_rules_act() {
    let args = args(&["--skip-inbound-ports=9000", "--skip-outbound-ports=80", "--skip-outbound-cidrs=203.0.113.0/24"]);
    run_init(&args).unwrap();
    run_init(&args).unwrap();
    assert_eq!(check::prove(&args.outbound).unwrap(), Proof { ipv4: true, ipv6: true });
    let tables = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    let tables = String::from_utf8(tables.stdout).unwrap();
    assert_eq!(tables.matches("redirect to :15001").count(), 1, "loaded twice, there once: {tables}");
    what_is_exempt_passes_by();
    what_arrives_is_redirected();
}

/// The proxy's own user, an exempt port and an exempt network are not redirected: the neighbour refuses them.
fn what_is_exempt_passes_by() {
    let listener = TcpListener::bind("0.0.0.0:15001").unwrap();
    listener.set_nonblocking(true).unwrap();
    for (user, address) in [("2119", "198.51.100.2/81"), ("65534", "198.51.100.2/80"), ("65534", "203.0.113.1/81")] {
        dial(&["setpriv", "--reuid", user, "--clear-groups"], address);
        let arrived = listener.accept().map(|(_, peer)| peer);
        assert!(arrived.is_err(), "{user} to {address} was redirected: {arrived:?}");
    }
    assert!(dial(&["setpriv", "--reuid", "65534", "--clear-groups"], "198.51.100.2/81"), "any other connection is");
    listener.accept().unwrap();
}

/// The neighbour's connections arrive at the inbound port, but for exempt ones.
fn what_arrives_is_redirected() {
    let neighbour = ["ip", "netns", "exec", "there"];
    let listener = TcpListener::bind("[::]:15006").unwrap();
    for address in ["198.51.100.1/8080", "fd00:1::1/8080"] {
        assert!(dial(&neighbour, address), "{address} is not redirected");
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        let original = if address.contains(':') { socket.original_dst_v6() } else { socket.original_dst_v4() };
        assert_eq!(original.unwrap().as_socket().unwrap().port(), 8080);
    }
    assert!(!dial(&neighbour, "198.51.100.1/9000"), "an exempt port goes to the application, and nobody listens there");
    let admin = TcpListener::bind("0.0.0.0:15020").unwrap();
    assert!(dial(&neighbour, "198.51.100.1/15020"));
    let (mut accepted, _) = admin.accept().unwrap();
    assert_eq!(accepted.read(&mut [0; 1]).unwrap(), 0, "the admin port is reached as it is");
}

/// Connects from a process started by `wrapper` and closes; whether it connected within a second.
fn dial(wrapper: &[&str], address: &str) -> bool {
    let script = format!("exec 3<>/dev/tcp/{address}");
    let (program, rest) = wrapper.split_first().unwrap();
    Command::new(program)
        .args(rest)
        .args(["timeout", "1", "bash", "-c", &script])
        .stderr(Stdio::null())
        .status()
        .unwrap()
        .success()
}
