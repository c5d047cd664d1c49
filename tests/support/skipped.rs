//! Tests that cannot run on every machine are reported and counted as skipped, and fail where
//! required.

use std::path::Path;

/// Reports that the calling test is skipped because `what` is missing, and writes a file that
/// `.ci/run` counts.
///
/// # Panics
/// If `INCEPT_REQUIRE`, a comma-separated list, contains `what` or `all`.
pub fn skipped(what: &str, why: &str) {
    let required = std::env::var("INCEPT_REQUIRE").unwrap_or_default();
    let required = required.split(',').map(str::trim).any(|name| name == what || name == "all");
    assert!(!required, "skipped: {what} is required here (INCEPT_REQUIRE), and {why}");
    // The test harness names a test's thread after the test.
    let thread = std::thread::current();
    let line = format!("skipped: {} ({what}): {why}\n", thread.name().unwrap_or("a test"));
    eprint!("{line}");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("skipped");
    // Tests with the same name in two programs are counted separately.
    let program =
        std::env::current_exe().ok().and_then(|p| Some(p.file_stem()?.to_string_lossy().into_owned()));
    let name =
        format!("{} {line}", program.unwrap_or_default()).replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let name: String = name.chars().take(150).collect();
    std::fs::create_dir_all(&folder).expect("a folder for skipped tests");
    std::fs::write(folder.join(name), line).expect("skipped tests can be recorded");
}
