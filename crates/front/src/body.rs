//! Reading a request's body, within limits of size and time.

use axum::{body::Body, extract::Request, http::header::CONTENT_ENCODING};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use crate::{Error, state::FrontSettings};

/// A body over the limit is read on and thrown away up to this multiple of the limit: most clients look for an answer
/// only once they have sent everything, and would otherwise see a broken connection instead of the status.
const DISCARD_FACTOR: usize = 8;

/// The whole body.
pub(crate) async fn read(request: Request, settings: &FrontSettings) -> Result<Bytes, Error> {
    if let Some(encoding) = request.headers().get(CONTENT_ENCODING)
        && encoding.as_bytes() != b"identity"
    {
        let encoding = String::from_utf8_lossy(encoding.as_bytes()).into_owned();
        return Err(Error::ContentEncoding { encoding });
    }
    let limit_bytes = settings.body_bytes_max;
    let mut body = request.into_body();
    let announced = body.size_hint().lower();
    if announced > limit_bytes as u64 {
        discard(body, announced, settings).await;
        return Err(Error::BodyTooLarge { limit_bytes });
    }
    let mut whole = BytesMut::new();
    while let Some(data) = next(&mut body, settings).await? {
        if whole.len() + data.len() > limit_bytes {
            discard(body, 0, settings).await;
            return Err(Error::BodyTooLarge { limit_bytes });
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn next(body: &mut Body, settings: &FrontSettings) -> Result<Option<Bytes>, Error> {
    loop {
        let frame = timeout(settings.body_timeout, body.frame())
            .await
            .map_err(|_| Error::BodyTimeout { limit_s: settings.body_timeout.as_secs() })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(Error::BodyInterrupted { message: error.to_string() }),
            // Trailers carry nothing for us.
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads on for a while and keeps nothing.
async fn discard(mut body: Body, announced: u64, settings: &FrontSettings) {
    let mut left = settings.body_bytes_max.saturating_mul(DISCARD_FACTOR);
    if announced > left as u64 {
        return;
    }
    while let Ok(Some(data)) = next(&mut body, settings).await {
        match left.checked_sub(data.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
