//! What a person does with a cluster, done with the real kubectl, on both stores.

mod delete;
mod edit;
mod guestbook;
mod inspect;
mod interact;
mod lifecycle;
mod manifests;
mod network;
mod nodes;
mod output;
mod resilience;
mod restart;
mod rollout;
mod uplink;

use std::process::ExitCode;

use e2e::Topic;

/// All topics, the long ones first.
const TOPICS: &[Topic] = &[
    Topic { name: "restart", alone: false, run: restart::run },
    Topic { name: "guestbook", alone: false, run: guestbook::run },
    Topic { name: "rollout", alone: false, run: rollout::run },
    Topic { name: "network", alone: false, run: network::run },
    Topic { name: "delete", alone: false, run: delete::run },
    Topic { name: "interact", alone: false, run: interact::run },
    Topic { name: "inspect", alone: false, run: inspect::run },
    Topic { name: "edit", alone: false, run: edit::run },
    Topic { name: "output", alone: false, run: output::run },
    Topic { name: "nodes", alone: true, run: nodes::run },
    Topic { name: "resilience", alone: true, run: resilience::run },
    Topic { name: "uplink", alone: true, run: uplink::run },
    Topic { name: "lifecycle", alone: true, run: lifecycle::run },
];

#[allow(clippy::print_stderr, reason = "where a test run tells why it could not start")]
fn main() -> ExitCode {
    match e2e::runner::main(TOPICS, std::env::args().skip(1)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
