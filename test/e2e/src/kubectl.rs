//! kubectl, as a person at a terminal would use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::{Ended, Running, run};
use crate::wait::eventually;

/// Arguments: one text that is split at spaces, or a list where arguments contain spaces.
pub trait Arguments {
    /// The single arguments.
    fn arguments(&self) -> Vec<String>;
}

impl Arguments for &str {
    fn arguments(&self) -> Vec<String> {
        self.split_ascii_whitespace().map(str::to_owned).collect()
    }
}

impl Arguments for &String {
    fn arguments(&self) -> Vec<String> {
        self.as_str().arguments()
    }
}

impl<const N: usize> Arguments for [&str; N] {
    fn arguments(&self) -> Vec<String> {
        self.iter().map(|part| (*part).to_owned()).collect()
    }
}

/// kubectl for one cluster and namespace.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    namespace: String,
    environment: Vec<(String, String)>,
}

impl Kubectl {
    /// kubectl as the user of a kubeconfig; caches go below `home`.
    pub fn new(program: &Path, kubeconfig: &Path, home: &Path, namespace: &str) -> Self {
        Self {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            home: home.to_owned(),
            namespace: namespace.to_owned(),
            environment: Vec::new(),
        }
    }

    /// The namespace in which it works.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same with one more variable in its environment.
    #[must_use]
    pub fn with_environment(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.environment.push((name.to_owned(), value.to_owned()));
        other
    }

    /// The command, not started.
    pub fn command(&self, arguments: impl Arguments) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .env("KUBECACHEDIR", self.home.join("cache"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(["--namespace", &self.namespace]).args(arguments.arguments());
        command
    }

    /// Runs it to its end, whatever that is.
    pub fn ended(&self, arguments: impl Arguments) -> anyhow::Result<Ended> {
        run(&mut self.command(arguments), "")
    }

    /// Runs it; it must succeed. Gives standard output.
    pub fn run(&self, arguments: impl Arguments) -> anyhow::Result<String> {
        self.ended(arguments)?.success()
    }

    /// Runs it with input; it must succeed. Gives standard output.
    pub fn run_with(&self, arguments: impl Arguments, input: &str) -> anyhow::Result<String> {
        run(&mut self.command(arguments), input)?.success()
    }

    /// Runs it; it must fail. Gives standard error.
    pub fn fail(&self, arguments: impl Arguments) -> anyhow::Result<String> {
        self.ended(arguments)?.failure()
    }

    /// Runs it and checks that its output contains every one of these texts.
    pub fn shows(&self, arguments: impl Arguments, needles: &[&str]) -> anyhow::Result<String> {
        let arguments = arguments.arguments();
        let line = arguments.join(" ");
        let mut command = self.command("");
        command.args(arguments);
        let output = run(&mut command, "")?.success()?;
        for needle in needles {
            ensure!(output.contains(needle), "kubectl {line} does not show {needle:?}:\n{output}");
        }
        Ok(output)
    }

    /// An object or list as JSON (`-o json` is added).
    pub fn json(&self, arguments: &str) -> anyhow::Result<Value> {
        let output = self.run(&format!("{arguments} -o json"))?;
        serde_json::from_str(&output)
            .with_context(|| format!("kubectl {arguments} -o json gave no JSON: {output}"))
    }

    /// One value of an object, as text; empty when it is not there.
    pub fn value(&self, object: &str, path: &str) -> anyhow::Result<String> {
        self.run(["get", object, "-o", &format!("jsonpath={{{path}}}")])
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &[Value]) -> anyhow::Result<String> {
        let text: Vec<String> = manifests.iter().map(Value::to_string).collect();
        self.run_with("apply -f -", &text.join("\n---\n"))
    }

    /// Starts it in the background.
    pub fn start(&self, arguments: impl Arguments) -> anyhow::Result<Running> {
        Running::start(&mut self.command(arguments))
    }

    /// Waits until a value of an object is what is wanted.
    pub fn wait_value(
        &self,
        object: &str,
        path: &str,
        wanted: &str,
        limit: std::time::Duration,
    ) -> anyhow::Result<()> {
        eventually(&format!("{path} of {object} is {wanted:?}"), limit, || {
            let is = self.value(object, path)?;
            ensure!(is == wanted, "it is {is:?}");
            Ok(())
        })
    }
}
