//! The packet filter: jumps into our chains, one `iptables-restore` a sync, conntrack entries.

use std::collections::BTreeSet;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::conntrack::Stale;
use crate::names::is_ours;
use crate::rules::{FILTER_CHAINS, JUMPS, NAT_CHAINS};
use crate::{Error, Family};

/// A chain that nothing uses: when it is gone, someone flushed the tables and everything must be set again.
const CANARY: &str = "KUBE-PROXY-CANARY";
/// Longest wait for a program of the packet filter, including its own lock.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Seconds that iptables waits for its lock.
const LOCK_SECONDS: &str = "5";

const fn program(family: Family, save: Program) -> &'static str {
    match (family, save) {
        (Family::V4, Program::Iptables) => "iptables",
        (Family::V4, Program::Restore) => "iptables-restore",
        (Family::V4, Program::Save) => "iptables-save",
        (Family::V6, Program::Iptables) => "ip6tables",
        (Family::V6, Program::Restore) => "ip6tables-restore",
        (Family::V6, Program::Save) => "ip6tables-save",
    }
}

#[derive(Clone, Copy)]
enum Program {
    Iptables,
    Restore,
    Save,
}

async fn command(program: &'static str, arguments: &[&str], input: &[u8]) -> Result<Output, Error> {
    let failed = |reason: String| Error::Command { program, reason };
    let work = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take();
        let write = async move {
            if let Some(stdin) = &mut stdin {
                // A program that refuses early closes its input; its exit status says more than the broken pipe.
                let _ = stdin.write_all(input).await;
            }
        };
        let (output, ()) = tokio::join!(child.wait_with_output(), write);
        output
    };
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn check(program: &'static str, output: Output) -> Result<String, Error> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Command { program, reason: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

/// Makes our chains and the jumps into them, in their order at the head of the built-in chains.
pub(crate) async fn ensure_jumps(family: Family) -> Result<(), Error> {
    let save = program(family, Program::Save);
    let existing = check(save, command(save, &[], b"").await?)?;
    let restore = program(family, Program::Restore);
    let input = jumps_input(&existing);
    check(restore, command(restore, &["-w", LOCK_SECONDS, "--noflush"], input.as_bytes()).await?).map(drop)
}

/// Input that declares what is missing and puts the jumps where they belong. Jumps that exist are moved, so that there
/// is one of each and their order is ours.
fn jumps_input(existing: &str) -> String {
    let mut input = String::new();
    for table in ["filter", "nat"] {
        let current = section(existing, table);
        input.push_str(&format!("*{table}\n"));
        let chains: &[&str] = if table == "filter" { &FILTER_CHAINS } else { &NAT_CHAINS };
        for chain in chains.iter().chain(&[CANARY]) {
            // Declaring an existing chain would empty it.
            if !current
                .iter()
                .any(|line| line.strip_prefix(':').and_then(|l| l.split(' ').next()) == Some(chain))
            {
                input.push_str(&format!(":{chain} - [0:0]\n"));
            }
        }
        let mut position = std::collections::BTreeMap::new();
        for (_, from, to, matches, comment) in JUMPS.iter().filter(|jump| jump.0 == table) {
            let is_jump = |line: &&&str| {
                line.starts_with(&format!("-A {from} ")) && line.ends_with(&format!("-j {to}"))
            };
            for old in current.iter().filter(is_jump) {
                input.push_str(&format!("-D{}\n", &old[2..]));
            }
            let at = position.entry(from).or_insert(0);
            *at += 1;
            let matches: String = matches.iter().flat_map(|m| [m, " "]).collect();
            input.push_str(&format!("-I {from} {at} {matches}-m comment --comment \"{comment}\" -j {to}\n"));
        }
        input.push_str("COMMIT\n");
    }
    input
}

/// Lines of a table in the output of `iptables-save`.
fn section<'a>(saved: &'a str, table: &str) -> Vec<&'a str> {
    let header = format!("*{table}");
    saved.lines().skip_while(|line| *line != header).skip(1).take_while(|line| *line != "COMMIT").collect()
}

/// Whether the tables still hold what we put there.
pub(crate) async fn canary_alive(family: Family) -> bool {
    let iptables = program(family, Program::Iptables);
    for table in ["nat", "filter"] {
        let arguments = ["-w", LOCK_SECONDS, "-t", table, "-S", CANARY, "1"];
        // Asking for a rule number lists nothing of an empty chain and fails for one that does not exist.
        let listed = command(iptables, &arguments, b"").await;
        if !listed.is_ok_and(|output| output.status.success()) {
            return false;
        }
    }
    true
}

/// Chains for service ports and endpoints in the kernel, as [`crate::rules::Rules::chains`] names them.
pub(crate) async fn existing_chains(family: Family) -> Result<BTreeSet<String>, Error> {
    let save = program(family, Program::Save);
    let saved = check(save, command(save, &[], b"").await?)?;
    let mut chains = BTreeSet::new();
    for (table, prefix) in [("nat", ""), ("filter", "filter ")] {
        let declared =
            section(&saved, table).into_iter().filter_map(|l| l.strip_prefix(':')?.split(' ').next());
        chains.extend(declared.filter(|chain| is_ours(chain)).map(|chain| format!("{prefix}{chain}")));
    }
    Ok(chains)
}

/// Puts a complete set of rules into the kernel, all at once or not at all.
pub(crate) async fn restore(family: Family, text: &str) -> Result<(), Error> {
    let restore = program(family, Program::Restore);
    let arguments = ["-w", LOCK_SECONDS, "--noflush", "--counters"];
    check(restore, command(restore, &arguments, text.as_bytes()).await?).map(drop)
}

/// Forgets stale flows. Finding none is no failure.
pub(crate) async fn forget(stale: &BTreeSet<Stale>) {
    for flows in stale {
        let arguments = flows.arguments();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match command("conntrack", &arguments, b"").await {
            Ok(output) if output.status.success() => {}
            Ok(output) if String::from_utf8_lossy(&output.stderr).contains("0 flow entries") => {}
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                tracing::warn!(?flows, reason, "stale flows not removed");
            }
            Err(error) => tracing::warn!(?flows, %error, "stale flows not removed"),
        }
    }
}

/// Lets packets to loopback be routed, without which node ports do not answer on 127.0.0.1.
pub(crate) fn allow_localhost_node_ports() {
    let path = "/proc/sys/net/ipv4/conf/all/route_localnet";
    if let Err(error) = std::fs::write(path, "1") {
        tracing::warn!(path, %error, "node ports will not answer on the loopback address");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_put_once_and_in_order() {
        let empty = jumps_input("");
        assert!(
            empty.contains(":KUBE-SERVICES - [0:0]\n")
                && empty.contains("-I INPUT 1 -m conntrack --ctstate NEW ")
        );
        assert!(empty.contains(
            "-I PREROUTING 1 -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n"
        ));
        let saved = "*nat\n:PREROUTING ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n\
                     -A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\nCOMMIT\n";
        let again = jumps_input(saved);
        let nat = again.split("*nat\n").nth(1).expect("a nat section");
        assert!(!nat.contains(":KUBE-SERVICES - "), "an existing chain must not be emptied");
        assert_eq!(nat.matches("-D PREROUTING ").count(), 1);
        assert_eq!(nat.matches("-I PREROUTING 1 ").count(), 1);
    }
}
