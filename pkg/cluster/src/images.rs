//! Container images in the nodes' containerd.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::spec::{Paths, Spec};
use crate::{Error, command, process, write_file};

/// Namespace in which the kubelet's runtime keeps images.
const NAMESPACE: &str = "k8s.io";

/// A command that will run inside a node.
pub fn in_node(paths: &Paths, node: &str, program: &str) -> Result<Command, Error> {
    let init = process::running(paths, &format!("{node}-init")).ok_or_else(|| {
        Error::Refused(format!("{node} does not run; start the cluster with `kubewright up`"))
    })?;
    let mut command = Command::new("nsenter");
    command.args([
        "--target",
        &init.pid.to_string(),
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--",
        program,
    ]);
    Ok(command)
}

/// Imports an archive (`docker save` or OCI layout, tar) into every node at once.
pub fn import(paths: &Paths, spec: &Spec, archive: &Path) -> Result<(), Error> {
    let archive = archive.canonicalize().map_err(Error::file("find", archive))?;
    let mut running: Vec<(String, Child)> = Vec::new();
    for node in spec.node_names() {
        let child = in_node(paths, &node, "ctr")?
            .args(["--namespace", NAMESPACE, "images", "import"])
            .arg(&archive)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| Error::Command { command: "nsenter".into(), reason: e.to_string() })?;
        running.push((node, child));
    }
    for (node, child) in running {
        let out = child
            .wait_with_output()
            .map_err(|e| Error::Command { command: "ctr images import".into(), reason: e.to_string() })?;
        if !out.status.success() {
            return Err(Error::Command {
                command: format!("ctr images import {} on {node}", archive.display()),
                reason: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            });
        }
    }
    Ok(())
}

/// Names of the images on a node.
pub fn list(paths: &Paths, node: &str) -> Result<Vec<String>, Error> {
    let out =
        command::output(in_node(paths, node, "ctr")?.args(["--namespace", NAMESPACE, "images", "ls", "-q"]))?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.lines().filter(|name| !name.starts_with("sha256:")).map(str::to_owned).collect())
}

/// Makes sure that every node has the pause image, which is built in.
pub fn ensure_pause(paths: &Paths, spec: &Spec) -> Result<(), Error> {
    let mut missing = false;
    for node in spec.node_names() {
        missing |= !list(paths, &node)?.iter().any(|name| name == pauseimage::NAME);
    }
    if !missing {
        return Ok(());
    }
    let path = paths.root.join("pause.tar");
    write_file(&path, pauseimage::archive()?, 0o644)?;
    import(paths, spec, &path)
}
