//! Which proxy stands between the endpoint and us: the one of the configuration, or the one that the environment names.
//!
//! An environment that names a proxy which we cannot use is a fault, and never the straight way: who names one does not
//! want records to go without it. What a variable holds is never shown, for it may hold a password.

use hyper::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::OtlpFault;
use crate::config;

/// Those of an endpoint's scheme stand before these.
const FOR_ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const FOR_NONE: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// The proxy on the way to `endpoint`; `None` = straight. `variable` is the environment.
pub(super) fn on_the_way(
    endpoint: &Uri,
    proxy: &config::Proxy,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Intercept>, OtlpFault> {
    match proxy {
        config::Proxy::None => Ok(None),
        config::Proxy::Environment => of_environment(endpoint, variable),
        // `check` has tried it.
        config::Proxy::Url(url) => Ok(Matcher::builder().all(url.clone()).build().intercept(endpoint)),
    }
}

fn of_environment(
    endpoint: &Uri,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Intercept>, OtlpFault> {
    // The first that is set, and that not to nothing.
    let first = |names: [&'static str; 2]| {
        let set = names.into_iter().find_map(|name| Some((name, variable(name)?)));
        set.filter(|(_, value)| !value.is_empty())
    };
    let for_its_scheme = match endpoint.scheme_str() {
        Some("https") => ["HTTPS_PROXY", "https_proxy"],
        _ => ["HTTP_PROXY", "http_proxy"],
    };
    let Some((name, url)) = first(for_its_scheme).or_else(|| first(FOR_ALL)) else { return Ok(None) };
    let none = first(FOR_NONE).map_or_else(String::new, |(_, hosts)| hosts);
    let by = |url: &str| Matcher::builder().all(url).no(none.clone()).build().intercept(endpoint);
    // Whatever that says, this endpoint has none.
    if by("http://proxy").is_none() {
        return Ok(None);
    }
    let scheme = || url.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    match by(&url) {
        Some(proxy) if proxy.uri().scheme_str() == Some("http") => Ok(Some(proxy)),
        _ => match scheme() {
            Some(scheme) if scheme != "http" => Err(OtlpFault::ProxyScheme { variable: name, scheme }),
            _ => Err(OtlpFault::ProxyUrl { variable: name }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of an endpoint in that environment: the proxy, `-` where there is none, or why it is refused.
    fn way(endpoint: &str, environment: &[(&str, &str)]) -> String {
        let endpoint: Uri = endpoint.parse().expect("a URL");
        let set = |name: &str| {
            let found = environment.iter().find(|(set, _)| *set == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        match on_the_way(&endpoint, &config::Proxy::Environment, set) {
            Ok(None) => "-".to_owned(),
            Ok(Some(proxy)) => proxy.uri().authority().expect("a host").to_string(),
            Err(fault) => fault.to_string(),
        }
    }

    const PLAIN: &str = "http://logs.example:4318/v1/logs";
    const TLS: &str = "https://logs.example/v1/logs";

    #[test]
    fn each_scheme_has_its_variable_before_that_of_all() {
        let all = [("ALL_PROXY", "http://all:1"), ("HTTPS_PROXY", "http://tls:2"), ("HTTP_PROXY", "plain:3")];
        assert_eq!((way(PLAIN, &[]), way(TLS, &[])), ("-".into(), "-".into()));
        assert_eq!((way(PLAIN, &all), way(TLS, &all)), ("plain:3".into(), "tls:2".into()));
        assert_eq!((way(PLAIN, &all[..2]), way(TLS, &all[..1])), ("all:1".into(), "all:1".into()));
        assert_eq!(way(PLAIN, &all[1..2]), "-");
        let small = [("all_proxy", "http://all:1"), ("https_proxy", "http://u:p@tls:2"), ("http_proxy", "")];
        assert_eq!((way(PLAIN, &small), way(TLS, &small)), ("all:1".into(), "tls:2".into()));
    }

    #[test]
    fn hosts_that_have_none_are_gone_to_straight_whatever_it_is() {
        for proxy in ["http://proxy:1", "https://proxy:1", "nonsense\n"] {
            for (hosts, is_none) in [
                ("logs.example", true),
                ("a, .example", true),
                ("*", true),
                ("gs.example", false),
                ("", false),
            ] {
                let said = way(PLAIN, &[("HTTP_PROXY", proxy), ("no_proxy", hosts)]);
                assert_eq!(said == "-", is_none, "{proxy} {hosts}: {said}");
            }
        }
        let proxy = ("ALL_PROXY", "http://proxy:1");
        assert_eq!(way("http://10.1.2.3:4318/v1/logs", &[proxy, ("NO_PROXY", "10.0.0.0/8")]), "-");
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_its_name_and_never_shown() {
        for scheme in ["https", "socks5", "socks5h", "ftp"] {
            let said = way(TLS, &[("https_proxy", &format!("{scheme}://user:s3cret@proxy:1"))]);
            assert!(
                said.contains(&format!("https_proxy names a proxy by a URL of the scheme {scheme};")),
                "{said}"
            );
            assert!(!said.contains("s3cret"), "{said}");
        }
        for url in ["http://", "user:s3cret@", "no proxy at all", "http://s3cret proxy:1"] {
            let said = way(PLAIN, &[("ALL_PROXY", url)]);
            assert!(said.contains("ALL_PROXY holds no URL of a proxy"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
        }
    }
}
