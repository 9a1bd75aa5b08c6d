//! Structured logs on standard error. Source: component-base's `--logging-format` and `-v`.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// `--logging-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// What a process logs, as flags of every binary.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Options {
    /// Log format
    #[arg(long = "logging-format", value_enum, default_value_t)]
    pub format: Format,
    /// Number for the log level verbosity: 0 is informational, 4 debug, 6 and more traces requests
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
}

/// Starts logging for the process. A second call does nothing, so tests may share a process.
pub fn init(options: &Options) {
    // Dependencies stay at warnings until a person asks for more than our own debug output.
    let filter = match options.verbosity {
        0..=3 => {
            // A name matches every target that begins with it: `kube` alone would hide the kubelet.
            "info,hyper=warn,h2=warn,rustls=warn,tonic=warn,tower=warn,kube_client=warn,fjall=warn,lsm_tree=warn,\
             hickory_server=warn"
        }
        4..=5 => "debug,hyper=info,h2=info,rustls=info,tonic=info,tower=info,fjall=info,lsm_tree=info",
        _ => "trace,h2=info,hyper=debug",
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_span_events(FmtSpan::NONE)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    let started = match options.format {
        Format::Text => builder.finish().try_init(),
        Format::Json => builder.json().finish().try_init(),
    };
    drop(started);
}
