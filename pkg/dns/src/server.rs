//! hickory-dns' request handler: the zone first, then the forwarder.

use std::sync::Arc;

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::Record;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::cluster::Cluster;
use crate::forward::Forwarder;
use crate::zone::{Answer, Zone};

pub(crate) struct Resolver {
    zone: Zone,
    cluster: Arc<Cluster>,
    forwarder: Forwarder,
}

/// The parts of a response.
#[derive(Default)]
struct Reply {
    answers: Vec<Record>,
    authorities: Vec<Record>,
    soa: Vec<Record>,
    additionals: Vec<Record>,
}

impl Resolver {
    pub(crate) fn new(zone: Zone, cluster: Arc<Cluster>, forwarder: Forwarder) -> Self {
        Self { zone, cluster, forwarder }
    }

    async fn reply(&self, request: &Request, metadata: &mut Metadata) -> Reply {
        let mut reply = Reply::default();
        if request.metadata.message_type != MessageType::Query || request.metadata.op_code != OpCode::Query {
            metadata.response_code = ResponseCode::NotImp;
            return reply;
        }
        let Ok(info) = request.request_info() else {
            metadata.response_code = ResponseCode::FormErr;
            return reply;
        };
        if !self.cluster.is_ready() {
            metadata.response_code = ResponseCode::ServFail;
            return reply;
        }
        let query = info.query;
        let name = query.original().name();
        match self.zone.answer(self.cluster.as_ref(), name, query.query_type()) {
            Answer::Records { answers, additionals } => {
                metadata.authoritative = true;
                if answers.is_empty() {
                    reply.soa.push(self.zone.soa(serial()));
                }
                reply.answers = answers;
                reply.additionals = additionals;
            }
            Answer::NameError => {
                metadata.authoritative = true;
                metadata.response_code = ResponseCode::NXDomain;
                reply.soa.push(self.zone.soa(serial()));
            }
            Answer::NotOurs if self.forwarder.is_configured() => {
                match self.forwarder.ask(request.as_slice(), request.metadata.id).await {
                    Some(answer) => {
                        metadata.recursion_available = true;
                        metadata.response_code = answer.metadata.response_code;
                        reply.answers = answer.answers;
                        reply.authorities = answer.authorities;
                        reply.additionals = answer.additionals;
                    }
                    None => metadata.response_code = ResponseCode::ServFail,
                }
            }
            Answer::NotOurs => metadata.response_code = ResponseCode::Refused,
        }
        reply
    }
}

/// The zone changes with the cluster; its serial is the time.
fn serial() -> u32 {
    jiff::Timestamp::now().as_second() as u32
}

#[async_trait]
impl RequestHandler for Resolver {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responses: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        let reply = self.reply(request, &mut metadata).await;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &request.edns {
            builder.edns(edns);
        }
        let response =
            builder.build(metadata, &reply.answers, &reply.authorities, &reply.soa, &reply.additionals);
        match responses.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, client = %request.src(), "response not sent");
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}
