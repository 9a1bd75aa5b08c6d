//! The kubelet's own chains in the packet filter (`makeIPTablesUtilChains`).
//!
//! `KUBE-FIREWALL` drops packets to loopback addresses from outside: a service proxy that lets node ports answer on
//! 127.0.0.1 would otherwise open whatever listens there to neighbours. `KUBE-IPTABLES-HINT` tells other programs which
//! of the two packet filters this node uses. Source: `pkg/kubelet/kubelet_network_linux.go`, KEP-3178.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest wait for a program of the packet filter, its own lock included.
const LIMIT: Duration = Duration::from_secs(30);
/// Seconds that iptables waits for its lock.
const LOCK_SECONDS: &str = "5";

/// Input that makes what is missing: chains that nothing has to be in, the firewall's chain with its one rule, and the
/// jumps to it.
fn input(saved: &str) -> String {
    let has = |line: &str| saved.lines().any(|known| known == line);
    let mut out =
        String::from("*mangle\n:KUBE-IPTABLES-HINT - [0:0]\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n");
    // Declaring the chain empties it, so that there is one rule whatever was there.
    out.push_str("*filter\n:KUBE-FIREWALL - [0:0]\n");
    out.push_str(
        "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment \"block incoming localnet connections\" \
         -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP\n",
    );
    for chain in ["INPUT", "OUTPUT"] {
        if !has(&format!("-A {chain} -j KUBE-FIREWALL")) {
            out.push_str(&format!("-I {chain} -j KUBE-FIREWALL\n"));
        }
    }
    out.push_str("COMMIT\n");
    out
}

async fn command(program: &str, arguments: &[&str], text: &str) -> Result<String, String> {
    let work = async {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that refuses early closes its input; its exit status says more than the broken pipe.
            let _ = stdin.write_all(text.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    match tokio::time::timeout(LIMIT, work).await {
        Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(Ok(output)) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// Makes the chains. A machine without iptables goes without them.
pub(crate) async fn set_up() {
    let outcome = async {
        let saved = command("iptables-save", &["-t", "filter"], "").await?;
        command("iptables-restore", &["-w", LOCK_SECONDS, "--noflush"], &input(&saved)).await
    };
    match outcome.await {
        Ok(_) => tracing::info!("initialized iptables rules"),
        Err(error) => tracing::warn!(error, "failed to initialize iptables rules"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_made_once() {
        let first = input("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n");
        assert_eq!(first.matches("-j KUBE-FIREWALL\n").count(), 2);
        assert!(first.contains("! -s 127.0.0.0/8 -d 127.0.0.0/8") && first.ends_with("COMMIT\n"));
        let again = input("*filter\n-A INPUT -j KUBE-FIREWALL\nCOMMIT\n");
        assert!(!again.contains("-I INPUT") && again.contains("-I OUTPUT"), "{again}");
    }
}
