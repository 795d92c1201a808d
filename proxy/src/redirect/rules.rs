//! The redirect rules as text for `nft -f`.
//!
//! One table of our own, so that nobody else's rules are touched: declared, deleted and declared again in one
//! transaction, which replaces it whether or not it was there. Each exemption is a rule of its own instead of an element
//! of a set, since sets refuse intervals that overlap and users may well write such.

use std::fmt::Write;

use firebreak_crds::redirect::PortRange;

use super::InitArgs;

/// The whole transaction.
pub fn text(args: &InitArgs) -> String {
    format!(
        "table inet firebreak\n\
         delete table inet firebreak\n\
         table inet firebreak {{\n\
         \tchain output {{\n\
         \t\ttype nat hook output priority -100; policy accept;\n\
         {outbound}\
         \t\tmeta l4proto tcp redirect to :{outbound_port}\n\
         \t}}\n\
         \tchain prerouting {{\n\
         \t\ttype nat hook prerouting priority -100; policy accept;\n\
         {inbound}\
         \t\tmeta l4proto tcp redirect to :{inbound_port}\n\
         \t}}\n\
         }}\n",
        outbound = outbound_exemptions(args),
        outbound_port = args.outbound.outbound_port,
        inbound = inbound_exemptions(args),
        inbound_port = args.inbound_port,
    )
}

/// The proxy's own connections, those that stay in the pod, and what the user exempts.
fn outbound_exemptions(args: &InitArgs) -> String {
    let mut rules = format!("\t\tmeta skuid {} return\n\t\toifname \"lo\" return\n", args.proxy_uid);
    ports(&mut rules, &args.outbound.skip_outbound_ports);
    for cidr in &args.outbound.skip_outbound_cidrs {
        let family = if cidr.is_ipv4() { "ip" } else { "ip6" };
        let _ = writeln!(rules, "\t\t{family} daddr {cidr} return");
    }
    rules
}

/// The proxy's own ports, which answer for themselves, and what the user exempts.
fn inbound_exemptions(args: &InitArgs) -> String {
    let mut rules = String::new();
    ports(&mut rules, &[args.outbound.outbound_port, args.inbound_port, args.admin_port].map(PortRange::port));
    ports(&mut rules, &args.skip_inbound_ports);
    rules
}

fn ports(rules: &mut String, exempt: &[PortRange]) {
    for range in exempt {
        let _ = writeln!(rules, "\t\ttcp dport {range} return");
    }
}
