//! The `ws` command.

fn main() -> std::process::ExitCode {
    ws_cli::main(std::env::args_os())
}
