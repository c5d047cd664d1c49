//! Tests that cannot run on every machine: they say so and are counted, and fail where they are
//! required.

use std::path::Path;

/// Says that the test that calls this does not run here, because `what` is missing, and leaves a
/// file that `.ci/run` counts.
///
/// # Panics
/// If `INCEPT_REQUIRE`, names with commas between, has `what` or `all` in it.
pub fn skipped(what: &str, why: &str) {
    let required = std::env::var("INCEPT_REQUIRE").unwrap_or_default();
    let required = required.split(',').map(str::trim).any(|name| name == what || name == "all");
    assert!(!required, "skipped: {what} is required here (INCEPT_REQUIRE), and {why}");
    // The test harness calls a test's thread like the test.
    let thread = std::thread::current();
    let line = format!("skipped: {} ({what}): {why}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    // Tests of one name in two programs are two.
    let program =
        std::env::current_exe().ok().and_then(|p| Some(p.file_stem()?.to_string_lossy().into_owned()));
    let name =
        format!("{} {line}", program.unwrap_or_default()).replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let name: String = name.chars().take(150).collect();
    std::fs::create_dir_all(&folder).expect("a folder for what is skipped");
    std::fs::write(folder.join(name), line).expect("what is skipped is counted");
}
