//! The top level of the repository is as the user fixed it: what is new belongs below one of these.

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    const TOP_LEVEL: [&str; 10] = [
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "crates",
        "hack",
        "proto",
        "src",
        "tests",
    ];

    #[test]
    fn the_top_level_holds_what_it_should_and_nothing_else() {
        let entries = std::fs::read_dir(env!("CARGO_MANIFEST_DIR")).expect("the repository");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let found: BTreeSet<String> = names
            .map(|name| name.into_string().expect("a name in UTF-8"))
            .filter(|name| !name.starts_with('.') && name != "target")
            .collect();
        assert_eq!(found, TOP_LEVEL.map(str::to_owned).into());
    }
}
