//! What is special about single resources and needs I/O.
//!
//! Subresources with effects ([`pod`], [`connect`], tokens), resources that are questions ([`review`]), and what
//! happens around writes (addresses and ports of services in [`service`], escalation checks of roles). [`install`] plugs all of it into a server.

mod component_status;
mod connect;
mod names;
mod pod;
mod rbac;
mod review;
mod service;
mod token_request;

use std::sync::Arc;

use apiserver::ServerBuilder;
use auth::assemble::{Authentication, Authorization};

pub use connect::{Connector, KubeletConfig, TransportError};
pub use service::{ServiceConfig, Services, ServicesError};
pub use token_request::TokenConfig;

use connect::{NodeProxy, PodLog, PodProxy, PodStream, ServiceProxy, Stream, StreamMetrics};
use review::{AccessReview, RulesReview, Scope, SelfSubjectReview, TokenReview};

/// What [`install`] needs.
pub struct Config {
    /// Authenticators, for TokenReview.
    pub authentication: Authentication,
    /// Authorizers, for access reviews and escalation checks.
    pub authorization: Authorization,
    /// How service account tokens are issued; without, TokenRequest is not served.
    pub tokens: Option<TokenConfig>,
    /// Opens connections to kubelets, pods and services.
    pub connector: Arc<Connector>,
    /// Kinds of node addresses, the preferred first (`--kubelet-preferred-address-types`).
    pub address_types: Vec<String>,
    /// Where what is carried over to kubelets is counted.
    pub metrics: component::metrics::Metrics,
    /// Addresses and ports of services.
    pub services: Arc<Services>,
}

/// Plugs everything into a server.
pub fn install(builder: ServerBuilder, config: Config) -> ServerBuilder {
    let authorizer = config.authorization.authorizer;
    let stream = Stream {
        connector: config.connector,
        address_types: config.address_types.into(),
        authorizer: authorizer.clone(),
        metrics: StreamMetrics::new(&config.metrics),
    };
    let review = |scope| Arc::new(AccessReview::new(scope, authorizer.clone()));
    let (authentication, authorization) = ("authentication.k8s.io", "authorization.k8s.io");
    let components = Arc::new(component_status::ComponentStatus::new(stream.connector.clone()));
    let mut builder = builder
        .handler("", "componentstatuses", "", components)
        .handler("", "bindings", "", Arc::new(pod::Binding))
        .handler("", "pods", "binding", Arc::new(pod::Binding))
        .handler("", "pods", "eviction", Arc::new(pod::Eviction))
        .handler("", "pods", "log", Arc::new(PodLog(stream.clone())))
        .handler("", "pods", "exec", Arc::new(PodStream::exec(stream.clone())))
        .handler("", "pods", "attach", Arc::new(PodStream::attach(stream.clone())))
        .handler("", "pods", "portforward", Arc::new(PodStream::port_forward(stream.clone())))
        .handler("", "pods", "proxy", Arc::new(PodProxy(stream.clone())))
        .handler("", "services", "proxy", Arc::new(ServiceProxy(stream.clone())))
        .handler("", "nodes", "proxy", Arc::new(NodeProxy(stream)))
        .handler(authentication, "tokenreviews", "", Arc::new(TokenReview::new(config.authentication)))
        .handler(authentication, "selfsubjectreviews", "", Arc::new(SelfSubjectReview))
        .handler(authorization, "subjectaccessreviews", "", review(Scope::Anybody))
        .handler(authorization, "localsubjectaccessreviews", "", review(Scope::Namespace))
        .handler(authorization, "selfsubjectaccessreviews", "", review(Scope::Requester))
        .handler(authorization, "selfsubjectrulesreviews", "", Arc::new(RulesReview::new(authorizer.clone())))
        .hook("", "services", Arc::new(service::ServiceHook::new(config.services)));
    if let Some(tokens) = config.tokens {
        let handler = Arc::new(token_request::TokenRequest::new(tokens));
        builder = builder.handler("", "serviceaccounts", "token", handler);
    }
    if let Some(guard) = config.authorization.escalation {
        for resource in ["roles", "clusterroles", "rolebindings", "clusterrolebindings"] {
            builder = builder.hook(
                "rbac.authorization.k8s.io",
                resource,
                Arc::new(rbac::RoleHook::new(guard.clone())),
            );
        }
    }
    builder
}
