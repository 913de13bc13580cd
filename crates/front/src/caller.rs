//! On whose behalf a request comes: what keeps the shares and the caches of tenants apart.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use types::Service;

const TENANT: HeaderName = HeaderName::from_static("x-tenant-id");
const EXPLAIN: HeaderName = HeaderName::from_static("x-brigade-explain");
const TENANT_BYTES_MAX: usize = 128;

/// Who sent a request, as far as its headers tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caller {
    /// Which of the server's keys it came with, if keys are asked for.
    pub(crate) key: Option<usize>,
    /// As a gateway names it.
    header: Option<String>,
    /// It wants to know where its time went.
    pub(crate) explain: bool,
}

/// What a request's body says of its own service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wishes {
    pub(crate) priority: i32,
    /// By when after its arrival it wants its first token.
    pub(crate) first_token_due_ms: Option<u32>,
    /// The caller's own user.
    pub(crate) user: Option<String>,
    /// Requests that share what is cached.
    pub(crate) cache_salt: Option<String>,
}

impl Caller {
    pub(crate) fn new(headers: &HeaderMap, key: Option<usize>) -> Self {
        let header = headers.get(TENANT).and_then(|value| value.to_str().ok());
        let header = header.filter(|text| (1..=TENANT_BYTES_MAX).contains(&text.len()));
        let explain = headers.get(EXPLAIN).is_some_and(|value| value == "true" || value == "1");
        Self { key, header: header.map(str::to_owned), explain }
    }

    /// How a request is to be served. A key is proof of who sent it; without keys, the header is believed, and then the
    /// request itself. Keys never share what is cached.
    pub(crate) fn service(self, wishes: Wishes) -> Service {
        let key = self.key.map(|key| format!("key {}", key + 1));
        let salt = [key.as_deref(), wishes.cache_salt.as_deref()].map(Option::unwrap_or_default);
        let cache_salt = if salt == ["", ""] { String::new() } else { salt.join("\n") };
        let tenant = key.or(self.header).or(wishes.user).unwrap_or_default();
        let due = wishes.first_token_due_ms.map(|due_ms| Duration::from_millis(due_ms.into()));
        let (tenant, cache_salt) = (tenant.into(), cache_salt.into());
        Service { priority: wishes.priority, due, tenant, cache_salt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(key: Option<usize>, header: &str, user: &str, salt: &str) -> (String, String) {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let (user, cache_salt) = (given(user), given(salt));
        let wishes = Wishes { priority: 3, user, cache_salt, ..Wishes::default() };
        let service = Caller { key, header: given(header), explain: false }.service(wishes);
        assert_eq!(service.priority, 3);
        (service.tenant.to_string(), service.cache_salt.to_string())
    }

    #[test]
    fn a_key_tells_more_than_a_header_and_that_more_than_a_field() {
        let owned = |tenant: &str, salt: &str| (tenant.to_owned(), salt.to_owned());
        assert_eq!(service(None, "", "", ""), owned("", ""));
        assert_eq!(service(None, "", "ann", ""), owned("ann", ""));
        assert_eq!(service(None, "acme", "ann", ""), owned("acme", ""));
        assert_eq!(service(Some(2), "acme", "ann", ""), owned("key 3", "key 3\n"));
    }

    #[test]
    fn nobody_gets_another_s_cache_by_naming_its_salt() {
        let salts = [
            service(None, "", "", "key 3\n"),
            service(Some(2), "", "", ""),
            service(Some(2), "", "", "a"),
            service(Some(1), "", "", "a"),
            service(None, "", "", "a"),
            service(None, "", "", ""),
        ]
        .map(|(_, salt)| salt);
        for (index, salt) in salts.iter().enumerate() {
            assert!(!salts[..index].contains(salt), "{salt:?}");
        }
    }

    #[test]
    fn a_header_that_is_no_name_is_not_believed() {
        let mut headers = HeaderMap::new();
        headers.insert(TENANT, "acme".parse().unwrap());
        assert_eq!(Caller::new(&headers, None).header.as_deref(), Some("acme"));
        headers.insert(TENANT, "x".repeat(TENANT_BYTES_MAX + 1).parse().unwrap());
        assert_eq!(Caller::new(&headers, None).header, None);
    }
}
