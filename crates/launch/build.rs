//! Links the program at a fixed address: half of what it costs to start is relocating itself.

fn main() {
    println!("cargo::rustc-link-arg-bins=-no-pie");
}
