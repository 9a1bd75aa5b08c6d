//! Reaching into pods: exec, attach, cp, port-forward, run.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e::{BUSYBOX, Context, SHORT, process};
use serde_json::json;

use crate::manifests::{idle_pod, server_pod, shell_pod, wait_for};

/// Bytes copied to and from a pod: more than any buffer on the way holds.
const COPIED: usize = 3 << 20;

pub(crate) fn run(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let mut echo = shell_pod("echo", "while read line; do echo got $line; done");
    echo["spec"]["containers"][0]["stdin"] = json!(true);
    kubectl.apply(&[idle_pod("shell"), server_pod("web"), echo])?;
    wait_for(kubectl, "Ready", "pod/shell pod/web pod/echo")?;
    exec(context)?;
    attach(context)?;
    copy(context)?;
    forward(context)?;
    let ran = kubectl.run_with(
        [
            "run",
            "fleeting",
            "--rm",
            "-i",
            "--restart=Never",
            "--image",
            BUSYBOX,
            "--command",
            "--",
            "sh",
            "-c",
            "read x; echo read $x",
        ],
        "words\n",
    )?;
    ensure!(ran.contains("read words"), "{ran}");
    Ok(())
}

fn exec(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    ensure!(kubectl.run("exec shell -- hostname")? == "shell\n", "the pod's host name");
    ensure!(kubectl.run_with("exec -i shell -- cat", "over stdin\n")? == "over stdin\n", "stdin comes back");
    let failed = kubectl.ended(["exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 42"])?;
    ensure!(failed.status.code() == Some(42), "the exit code comes through: {failed:?}");
    ensure!(failed.stdout == "out\n" && failed.stderr.starts_with("err\n"), "streams stay apart: {failed:?}");
    let missing = kubectl.fail("exec shell -- /no/such/program")?;
    ensure!(missing.contains("no such file or directory"), "{missing}");
    let large = "0123456789abcdef\n".repeat(COPIED / 17);
    let back = kubectl.run_with("exec -i shell -- cat", &large)?;
    ensure!(back == large, "{} of {} bytes came back", back.len(), large.len());
    // A terminal needs one on this side too; script(1) makes it.
    let command = kubectl.command("exec -it shell -- tty");
    let line = std::iter::once(command.get_program()).chain(command.get_args());
    let line: Vec<_> = line.map(|part| part.to_string_lossy()).collect();
    let mut script = Command::new("script");
    for (name, value) in command.get_envs() {
        script.env(name, value.unwrap_or_default());
    }
    script.args(["-qec", &line.join(" "), "/dev/null"]);
    let terminal = process::run(&mut script, "")?.success()?;
    ensure!(terminal.contains("/dev/pts/"), "{terminal}");
    Ok(())
}

fn attach(context: &Context<'_>) -> anyhow::Result<()> {
    let mut attached = context.kubectl.start("attach -i echo")?;
    attached.write("hello\n")?;
    attached.wait_for("got hello\n", SHORT)?;
    attached.write("again\n")?;
    attached.wait_for("got again\n", SHORT)?;
    Ok(())
}

fn copy(context: &Context<'_>) -> anyhow::Result<()> {
    let kubectl = &context.kubectl;
    let directory = tempfile::tempdir()?;
    let (there, back) = (directory.path().join("there"), directory.path().join("back"));
    let content: Vec<u8> = (0..COPIED).map(|i| (i * 7 % 251) as u8).collect();
    std::fs::write(&there, &content)?;
    kubectl.run(["cp", &there.display().to_string(), "shell:/tmp/file"])?;
    let size = kubectl.run("exec shell -- stat -c %s /tmp/file")?;
    ensure!(size.trim() == COPIED.to_string(), "{size}");
    kubectl.run(["cp", "shell:/tmp/file", &back.display().to_string()])?;
    ensure!(std::fs::read(&back)? == content, "the file came back changed");
    Ok(())
}

fn forward(context: &Context<'_>) -> anyhow::Result<()> {
    context.kubectl.run("expose pod web --port=80 --target-port=8080")?;
    for target in ["pod/web :8080", "service/web :80"] {
        let mut forward = context.kubectl.start(&format!("port-forward {target}"))?;
        let output = forward.wait_for("Forwarding from 127.0.0.1:", SHORT)?;
        let port = output
            .split_once("127.0.0.1:")
            .and_then(|(_, rest)| rest.split_once(' '))
            .and_then(|(port, _)| port.parse::<u16>().ok())
            .with_context(|| format!("no port in {output}"))?;
        // Twice: the tunnel stays for further connections.
        for _ in 0..2 {
            let answer = get(port, "/")?;
            ensure!(answer.contains("host web client 127.0.0.1"), "{target}: {answer}");
        }
    }
    Ok(())
}

fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
