//! The `turnstile` program. Everything is in the library.

fn main() -> std::process::ExitCode {
    turnstile::commands::main()
}
