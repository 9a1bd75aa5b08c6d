//! POST.

use apimachinery::status::Status;
use component::http::Response;

use super::Exchange;
use crate::options;

pub(crate) async fn handle(exchange: Exchange) -> Result<Response, Status> {
    let media = exchange.media()?;
    let options = options::write(&exchange.context, options::Kind::Create)?;
    let object = exchange.decode(options.validation)?;
    let created = exchange.core().create(&exchange.place(), object, &options.params).await?;
    exchange.respond_written(created, &media)
}
