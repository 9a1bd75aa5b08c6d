//! What every binary shares: flags, logs, metrics, health, HTTP serving and PKI.
//!
//! Process plumbing only: nothing here knows an API object, and nothing reads flags or the environment by itself.
//! Each module is one concern and can be read alone.

pub mod fields;
pub mod flags;
pub mod gates;
pub mod health;
pub mod http;
mod link;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod pki;
pub mod serving;
pub mod shutdown;
mod streams;
pub mod tls;
pub mod version;
pub mod work;

pub use version::KUBERNETES_VERSION;

/// Makes aws-lc-rs the process's TLS provider. Call first thing in every `main`; later calls do nothing.
pub fn install_crypto() {
    // An error means that a provider is installed already, which is what we want.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
}

/// Memory set aside for the stack of each thread; what is not used is not there. Objects may be nested deeply, and so are
/// the calls of who walks them.
pub const STACK_BYTES: usize = 16 << 20;

/// The asynchronous runtime of a daemon with this many threads. Few threads keep memory low, and every thread gives
/// memory back when it rests. What takes long shall step aside: [`work`].
pub fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).thread_stack_size(STACK_BYTES);
    builder.enable_all().on_thread_park(memory::rest).build()
}

/// Threads for who answers many small requests: one for two cores. Threads that have little to do each spend their time
/// with waking one another (docs/adr/0013).
pub fn threads_for_requests() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

/// Keeps this process on small memory pages. Call early in programs that shall stay small: with huge pages an allocator's
/// first touch of a region makes 2 MiB of it resident, which is most of what an idle program would hold.
pub fn use_small_pages() {
    // A kernel without the call has no huge pages to keep off.
    let _ = nix::sys::prctl::set_thp_disable(true);
}
