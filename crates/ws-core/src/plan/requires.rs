//! Whether a program is of a version that the file asks for, judged by what the program prints.

use ws_model::{Requirement, Version, VersionRange};

/// How much of what a program printed is shown where no version is in it, in characters.
const SHOWN: usize = 60;

/// Judges what `PROGRAM --version` printed, on both its streams.
///
/// The version is looked for in the lines that name the program, and where none has one, in all. `*` asks for nothing
/// but the program.
///
/// # Errors
/// A sentence with the program, what was found, and what is wanted.
pub fn requirement_met(requirement: &Requirement, output_of_version: &str) -> Result<(), String> {
    let Requirement { program, version: wanted } = requirement;
    if wanted.trim() == "*" {
        return Ok(());
    }
    let range = VersionRange::parse(wanted).map_err(|condition| {
        format!("`{program}` is required in `{wanted}`, and `{condition}` is no version")
    })?;
    match found(program, output_of_version) {
        Some(version) if range.allows(&version) => Ok(()),
        Some(version) => Err(format!("`{program}` is {version} here, and {wanted} is required")),
        None => {
            let line = output_of_version.lines().map(str::trim).find(|line| !line.is_empty());
            let printed = match line {
                Some(line) => format!("`{}`", line.chars().take(SHOWN).collect::<String>().escape_debug()),
                None => "nothing".to_owned(),
            };
            Err(format!("`{program}` printed {printed}, with no version in it, and {wanted} is required"))
        }
    }
}

/// `elixir --version` prints that of Erlang first: a line with the program's name says more.
fn found(program: &str, output: &str) -> Option<Version> {
    let name = program.rsplit('/').next().unwrap_or(program).to_ascii_lowercase();
    let by_name = output
        .lines()
        .filter(|line| line.to_ascii_lowercase().contains(&name))
        // A digit in the name itself (`python3.11`) is no version.
        .find_map(|line| Version::find_in(&line.to_ascii_lowercase().replace(&name, " ")));
    by_name.or_else(|| Version::find_in(output))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(program: &str, version: &str, output: &str) -> Result<(), String> {
        requirement_met(&Requirement { program: program.to_owned(), version: version.to_owned() }, output)
    }

    #[test]
    fn versions_of_real_programs_are_judged() {
        for (program, output, good, bad) in [
            ("node", "v20.11.1\n", ">=20", ">=21"),
            ("psql", "psql (PostgreSQL) 15.3 (Debian 15.3-1.pgdg120+1)\n", "15", "16"),
            ("python3", "Python 3.13.5\n", ">=3.11, <4", "3.12"),
            ("python3.11", "Python 3.11.7\n", "3.11.7", "3.12"),
            ("python3.11", "python3.11 3.11.7\n", "3.11.7", ">3.11"),
            ("go", "go version go1.22.1 linux/amd64\n", "1.22", "<1.22"),
            (
                "java",
                "openjdk 21.0.1 2023-10-17\nOpenJDK Runtime Environment (build 21.0.1+12-29)\n",
                "21",
                "<=17",
            ),
            (
                "java",
                "openjdk version \"1.8.0_292\"\nOpenJDK Runtime Environment (build 1.8.0_292)\n",
                "1.8",
                "8",
            ),
            ("javac", "javac 17\n", "17", ">17"),
            (
                "redis-server",
                "Redis server v=8.0.2 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n",
                ">7",
                "7.2",
            ),
            (
                "elixir",
                "Erlang/OTP 25 [erts-13.1.5] [source] [64-bit]\n\nElixir 1.14.0 (compiled with Erlang/OTP 25)\n",
                "1.14",
                ">=1.15",
            ),
            ("ruby", "ruby 3.1.2p20 (2022-04-12 revision 4491bb740a) [x86_64-linux-gnu]\n", "3.1.2", ">3.1"),
            ("/usr/bin/gcc", "gcc (Debian 12.2.0-14) 12.2.0\n", ">=12, <13", "13"),
            ("7z", "\n7-Zip [64] 16.02 : Copyright (c) 1999-2016 Igor Pavlov\n", "16", "64"),
            ("tool", "tool 1.2.3.4-rc1+build5\n", "1.2.3.4", ">1.2.3.4"),
        ] {
            assert_eq!(met(program, good, output), Ok(()), "{program} {good}");
            assert!(met(program, bad, output).is_err(), "{program} {bad}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_the_program_what_is_there_and_what_is_wanted() {
        for (version, output, expected) in [
            (">=20", "v18.19.0\n", "`node` is 18.19.0 here, and >=20 is required"),
            (
                ">=20",
                "\n error: no such\toption\n",
                "`node` printed `error: no such\\toption`, with no version in it, and >=20 is required",
            ),
            ("20", "", "`node` printed nothing, with no version in it, and 20 is required"),
            ("^20", "v20.1.0", "`node` is required in `^20`, and `^20` is no version"),
        ] {
            assert_eq!(met("node", version, output).unwrap_err(), expected);
        }
    }

    #[test]
    fn any_version_is_also_none() {
        assert_eq!(met("tool", "*", "usage: tool [FILE]"), Ok(()));
        assert!(met("tool", "*, >=1", "usage: tool [FILE]").is_err());
    }
}
