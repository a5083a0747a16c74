//! The `ws` under test: the same as the one that ships.

fn main() -> std::process::ExitCode {
    ws_cli::main(std::env::args_os())
}
