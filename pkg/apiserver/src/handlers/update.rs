//! PUT, of a resource or of a subresource that is a part of it.

use apimachinery::Value;
use apimachinery::status::Status;
use component::http::Response;

use super::Exchange;
use crate::core::metadata;
use crate::core::update::{Change, Subject};
use crate::options;

/// The object of the body, whatever is there now.
struct Put(Value);

impl Change for Put {
    fn apply(&self, _old: Option<&Value>) -> Result<Value, Status> {
        Ok(self.0.clone())
    }

    fn may_create(&self) -> bool {
        true
    }
}

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let options = options::write(&exchange.context, options::Kind::Update)?;
    let object = exchange.decode(options.validation)?;
    metadata::match_name(&object, exchange.name(), exchange.namespace())?;
    let subject = Subject {
        place: exchange.place(),
        name: exchange.name(),
        subresource: &exchange.context.info.subresource,
    };
    let written = exchange.core().update(&subject, &Put(object), &options.params).await?;
    exchange.respond_written(written, &media)
}
