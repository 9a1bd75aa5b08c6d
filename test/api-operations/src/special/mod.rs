//! Operations that only one resource has, and those on no resource at all.

mod connect;
mod discovery;
mod kubelet;
mod pods;
mod requests;
mod reviews;

pub(crate) use connect::need_a_node;

use crate::client::Client;
use crate::facts::Resource;
use crate::flows::make_namespace;
use crate::report::Report;

/// The namespace that these checks work in.
const NAMESPACE: &str = "walk-special";

/// Walks them all.
pub(crate) async fn walk(client: &Client, report: &Report, resources: &[Resource]) -> anyhow::Result<()> {
    make_namespace(client, NAMESPACE).await?;
    pods::walk(client, report).await;
    connect::walk(client, report).await;
    requests::walk(client, report).await;
    reviews::walk(client, report).await;
    // Last, as it knows what else is served and should have been walked.
    discovery::walk(client, report, resources).await;
    Ok(())
}
