//! Names of services as they were typed: checked against what there is, with a suggestion.
//!
//! A service with replicas is one name in the file and several that run: `api` means all of them, `api-2`
//! the one. One-offs (`api-run-1`) are meant only by their own name.

use ws_model::ServiceName;
use ws_model::wire::ServiceStatus;

use crate::error::Failure;

/// What may be named: a unit's own name, and the name that the file has for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known<'a> {
    /// Its own: `api`, `api-2`, `api-run-1`.
    pub name: &'a ServiceName,
    /// That of the service that the file declares: `api`.
    pub service: &'a ServiceName,
}

impl<'a> From<&'a ServiceStatus> for Known<'a> {
    fn from(row: &'a ServiceStatus) -> Self {
        Self { name: &row.name, service: &row.service }
    }
}

impl<'a> From<&'a ws_core::plan::ServicePlan> for Known<'a> {
    fn from(plan: &'a ws_core::plan::ServicePlan) -> Self {
        Self { name: &plan.name, service: &plan.declared }
    }
}

impl<'a> From<&'a ServiceName> for Known<'a> {
    fn from(name: &'a ServiceName) -> Self {
        Self { name, service: name }
    }
}

impl Known<'_> {
    fn is_one_off(&self) -> bool {
        ws_model::wire::is_one_off(self.name, self.service)
    }
}

/// The units that were named, each once, in the order in which they were typed.
///
/// # Errors
/// When one does not exist.
pub fn services<'a, K: Into<Known<'a>>>(
    typed: &[String],
    known: impl IntoIterator<Item = K>,
) -> Result<Vec<ServiceName>, Failure> {
    let known: Vec<Known<'a>> = known.into_iter().map(Into::into).collect();
    let mut names: Vec<ServiceName> = Vec::new();
    for text in typed {
        for name in units(text, &known)? {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
    }
    Ok(names)
}

/// The same for the names under which logs were kept: there, `api-1` without an `api` is a replica.
///
/// # Errors
/// When one does not exist.
pub fn on_disk(typed: &[String], known: &[ServiceName]) -> Result<Vec<ServiceName>, Failure> {
    let declared: Vec<ServiceName> = known.iter().map(|name| declared(name, known)).collect();
    services(typed, known.iter().zip(&declared).map(|(name, service)| Known { name, service }))
}

fn declared(name: &ServiceName, known: &[ServiceName]) -> ServiceName {
    let stem =
        name.as_str().rsplit_once('-').filter(|(_, number)| number.bytes().all(|b| b.is_ascii_digit()));
    let service = stem.and_then(|(stem, _)| ServiceName::new(stem).ok());
    service.filter(|service| !known.contains(service)).unwrap_or_else(|| name.clone())
}

/// The one unit that was named; of a service with replicas the first.
///
/// # Errors
/// When it does not exist.
pub fn service<'a, K: Into<Known<'a>>>(
    typed: &str,
    known: impl IntoIterator<Item = K>,
) -> Result<ServiceName, Failure> {
    let known: Vec<Known<'a>> = known.into_iter().map(Into::into).collect();
    units(typed, &known).map(|names| names[0].clone())
}

/// The units that a text means; never empty.
fn units<'a>(typed: &str, known: &[Known<'a>]) -> Result<Vec<&'a ServiceName>, Failure> {
    if let Some(own) = known.iter().find(|known| known.name.as_str() == typed) {
        return Ok(vec![own.name]);
    }
    let mut replicas: Vec<&ServiceName> = known
        .iter()
        .filter(|known| known.service.as_str() == typed && !known.is_one_off())
        .map(|known| known.name)
        .collect();
    if replicas.is_empty() {
        return Err(unknown(typed, known));
    }
    // `api-10` comes after `api-9`.
    replicas.sort_by_key(|name| (name.as_str().len(), *name));
    Ok(replicas)
}

fn unknown(typed: &str, known: &[Known<'_>]) -> Failure {
    let mut names: Vec<&str> = Vec::new();
    for known in known.iter().filter(|known| !known.is_one_off()) {
        for name in [known.service.as_str(), known.name.as_str()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let failure = Failure::usage(format!("there is no service `{typed}`"));
    let nearest = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name, &typed.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        // A third of the letters may be wrong, as in compilers' suggestions.
        .filter(|(distance, name)| *distance <= (name.len().max(typed.len()) / 3).max(1));
    match nearest {
        Some((_, name)) => failure.hint(format!("did you mean `{name}`?")),
        None if names.is_empty() => failure.hint("the workspace has no services"),
        None => {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            failure.hint(format!("there are {}", crate::render::list(&names)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_or_suggested() {
        let known = ["api", "cache", "postgres"].map(|name| ServiceName::new(name).unwrap());
        assert_eq!(services(&["api".into(), "cache".into(), "api".into()], &known).unwrap(), known[..2]);
        let cases = [
            ("chache", "did you mean `cache`?"),
            ("Postgres", "did you mean `postgres`?"),
            ("apis", "did you mean `api`?"),
            ("frontend", "there are api, cache and postgres"),
            ("", "there are api, cache and postgres"),
        ];
        for (typed, hint) in cases {
            let failure = service(typed, &known).unwrap_err();
            assert_eq!((failure.code, failure.hints[0].as_str()), (ws_model::exit::USAGE, hint), "{typed}");
        }
        assert_eq!(service::<&ServiceName>("x", []).unwrap_err().hints, ["the workspace has no services"]);
    }

    #[test]
    fn a_service_is_all_of_its_replicas() {
        let names = ["api-10", "api-2", "api-9", "api-run-1", "db", "db-run-7"]
            .map(|name| ServiceName::new(name).unwrap());
        let (api, db) = (ServiceName::new("api").unwrap(), ServiceName::new("db").unwrap());
        let known = || {
            let service = |name: &ServiceName| if name.as_str().starts_with("api") { &api } else { &db };
            names.iter().map(service).zip(&names).map(|(service, name)| Known { name, service })
        };
        let found = |typed: &str| {
            services(&[typed.to_owned()], known())
                .map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(found("api").unwrap(), ["api-2", "api-9", "api-10"]);
        assert_eq!(found("api-9").unwrap(), ["api-9"]);
        assert_eq!(found("api-run-1").unwrap(), ["api-run-1"]);
        assert_eq!(found("db").unwrap(), ["db"]);
        assert_eq!(service("api", known()).unwrap().as_str(), "api-2");
        assert_eq!(found("api-3").unwrap_err().hints, ["did you mean `api-2`?"]);
        assert_eq!(services(&["api-2".into(), "api".into()], known()).unwrap().len(), 3);
    }

    #[test]
    fn what_is_on_disk_is_known_by_its_names_alone() {
        let known = ["api-1", "api-2", "db", "db-2"].map(|name| ServiceName::new(name).unwrap());
        assert_eq!(on_disk(&["api".into()], &known).unwrap(), known[..2]);
        assert_eq!(on_disk(&["db".into()], &known).unwrap(), known[2..3]);
        assert!(on_disk(&["web".into()], &known).is_err());
    }
}
