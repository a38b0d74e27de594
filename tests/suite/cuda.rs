//! The examples on a real GPU. Without one they are reported as skipped, with the reason; a whole
//! machine's worth of tests is `scripts/gpu`.

use libtest_mimic::Trial;
use serde_json::json;
use turnstile_tests::command::{text, turnstile};
use turnstile_tests::policy::Document;
use turnstile_tests::{Outcome, pass, skip, test};

pub(crate) fn tests() -> Vec<Trial> {
    vec![
        test("cuda::two_tenants_share_a_real_gpu", || on_a_gpu("two-tenants.json")),
        test("cuda::a_hostile_tenant_is_refused_on_a_real_gpu", || on_a_gpu("hostile.json")),
    ]
}

/// An example as it is, but for its backend: every tenant's own checks must pass.
fn on_a_gpu(example: &str) -> Outcome {
    let policy = Document::example(example)?.set("/device/backend", json!("cuda"))?.write()?;
    let run = ["run", text(policy.path())?, "--frontend", "process", "--json"];
    let answer = turnstile(&run)?;
    // What a machine without NVIDIA's driver answers; anything else that goes wrong is a failure.
    if answer.status.code() == Some(3) && answer.stderr.contains("no CUDA driver") {
        return skip(answer.stderr.trim());
    }
    answer.expect_code(0)?;
    pass()
}
