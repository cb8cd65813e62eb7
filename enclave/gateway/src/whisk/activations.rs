//! Activations: list, get, logs, result.

use http::StatusCode;

use super::activation::Activation;
use super::query::Query;
use super::rejection::{Answer, Rejection};
use super::space::{Space, blocking};
use super::store::{Key, kind};
use super::{Context, Whisk, respond};

/// Most bytes of one answer that lists whole records: what does not fit is for the next page.
const MAX_DOCS: usize = 16 << 20;

impl Whisk {
    /// `GET` of the collection.
    pub(super) async fn list_activations(&self, context: &Context, namespace: &str) -> Answer {
        if namespace != context.owner {
            return Err(Rejection::forbidden(namespace));
        }
        let query = Query(&context.query);
        let (count, docs) = (query.flag("count", false)?, query.flag("docs", false)?);
        let (skip, limit) = query.page("activations")?;
        let filter = query.filter()?;
        let space = self.space(namespace, namespace).await?;
        self.keeping.settled(namespace, None).await;
        if count && docs {
            return Err(Rejection::bad_request("The parameter 'docs' is not permitted with 'count'."));
        }
        if count {
            let count = space.history.count(&filter).saturating_sub(skip);
            return Ok(respond(StatusCode::OK, format!("{{\"activations\":{count}}}")));
        }
        let found = space.history.list(&filter, skip, limit);
        if !docs {
            let summaries: Vec<String> = found.into_iter().map(|(_, summary)| summary).collect();
            return Ok(respond(StatusCode::OK, format!("[{}]", summaries.join(","))));
        }
        let mut body = String::from("[");
        for (id, _) in found {
            // One that was forgotten meanwhile is left out.
            let Ok(activation) = self.activation(&space, &id).await else { continue };
            let record = activation.to_json();
            if body.len() + record.len() > MAX_DOCS && body.len() > 1 {
                break;
            }
            if body.len() > 1 {
                body.push(',');
            }
            body.push_str(&record);
        }
        body.push(']');
        Ok(respond(StatusCode::OK, body))
    }

    /// `GET` of one, or of its logs or result.
    pub(super) async fn get_activation(&self, context: &Context, namespace: &str, id: &str, part: Option<&str>) -> Answer {
        if id.len() != 32 {
            return Err(Rejection::bad_request(format!("Activation id length is {} but must be 32.", id.len())));
        }
        if !id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
            return Err(Rejection::bad_request("The activation id is not valid."));
        }
        if namespace != context.owner {
            return Err(Rejection::forbidden(format!("{namespace}/{id}")));
        }
        let space = self.space(namespace, namespace).await?;
        self.keeping.settled(namespace, Some(id)).await;
        let activation = self.activation(&space, id).await?;
        let body = match part {
            None | Some("") => activation.to_json(),
            Some("logs") => activation.logs_json(),
            Some("result") => activation.result_json(),
            Some(_) => return Err(Rejection::not_found()),
        };
        Ok(respond(StatusCode::OK, body))
    }

    async fn activation(&self, space: &Space, id: &str) -> Result<Activation, Rejection> {
        if !space.history.contains(id) {
            return Err(Rejection::not_found());
        }
        let (store, key) = (self.store.clone(), Key::new(&space.id, kind::ACTIVATION, id));
        let bytes = blocking(move || store.get(&key)).await??.ok_or_else(Rejection::not_found)?;
        serde_json::from_slice(&bytes).map_err(|_| Rejection::internal())
    }
}
