//! Names of services as they were typed: checked against what there is, with a suggestion.

use ws_model::ServiceName;

use crate::error::Failure;

/// The services that were named, each once, in the order in which they were typed.
///
/// # Errors
/// When one does not exist.
pub fn services<'a>(
    typed: &[String],
    known: impl IntoIterator<Item = &'a ServiceName>,
) -> Result<Vec<ServiceName>, Failure> {
    let known: Vec<&ServiceName> = known.into_iter().collect();
    let mut names: Vec<ServiceName> = Vec::new();
    for text in typed {
        let name = service(text, known.iter().copied())?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The service that was named.
///
/// # Errors
/// When it does not exist.
pub fn service<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a ServiceName>,
) -> Result<ServiceName, Failure> {
    let known: Vec<&ServiceName> = known.into_iter().collect();
    if let Some(name) = known.iter().find(|name| name.as_str() == typed) {
        return Ok((*name).clone());
    }
    let failure = Failure::usage(format!("there is no service `{typed}`"));
    let nearest = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(name.as_str(), &typed.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        // A third of the letters may be wrong, as in compilers' suggestions.
        .filter(|(distance, name)| *distance <= (name.as_str().len().max(typed.len()) / 3).max(1));
    Err(match nearest {
        Some((_, name)) => failure.hint(format!("did you mean `{name}`?")),
        None if known.is_empty() => failure.hint("the workspace has no services"),
        None => {
            let names: Vec<String> = known.iter().map(ToString::to_string).collect();
            failure.hint(format!("there are {}", crate::render::list(&names)))
        }
    })
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
        assert_eq!(service("x", &[]).unwrap_err().hints, ["the workspace has no services"]);
    }
}
