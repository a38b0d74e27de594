//! Prints the tables of docs/kernels.md: `cargo run -p turnstile-corpus --example table`.
fn main() {
    print!("{}", turnstile_corpus::markdown());
}
