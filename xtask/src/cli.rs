//! The command line: one verb per need.

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::{bench, build, check, cluster, demo, fuzz, image, programs, say, test};

/// Builds, tests and shows this project. What a verb needs (the Rust source component, bpf-linker, ...) it installs by
/// itself, through rustup and into this checkout's target folder.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build the BPF object and print the size of each program in it
    ///
    /// Installs what is missing first. As root the programs are also loaded (and attached nowhere), to print how many
    /// instructions the kernel's verifier walked through and how many bytes of machine code came out.
    BuildEbpf(BuildEbpf),
    /// Build the agent as one static binary with the BPF object inside, and print its path and size
    Build(build::Options),
    /// Build the image of `deploy`: the static binary alone, as an OCI archive that a container runtime imports
    ///
    /// Takes no registry and no daemon. The same sources and tools give the same bytes.
    Image(image::Options),
    /// Run the tests: pure functions, Miri, programs in the kernel, packets, namespaces, a real control plane
    ///
    /// Every layer runs what the machine allows. What cannot run is listed as skipped, with the reason; the last line
    /// is the sum. Layers above `host` and `miri` need root.
    Test(test::Options),
    /// Show it at work: the real agent, real connections, live changes, in namespaces of its own
    ///
    /// Builds the agent, makes two nodes with pods out of network namespaces and cgroups, runs the agent on
    /// deploy/demo, drives connections through ClusterIP, NodePort and LoadBalancer addresses, scales, drains and
    /// deletes, and cleans up, on Ctrl-C as well. The machine's own traffic is not touched. Root is asked for through
    /// sudo, for that part alone.
    Demo(demo::Options),
    /// Run a control plane (etcd, kube-apiserver, kube-controller-manager) until Ctrl-C
    ///
    /// Built from Go modules once, which takes some minutes, or taken from KUBEBUILDER_ASSETS. How to reach it is
    /// printed.
    Cluster,
    /// Measure: prints figures beside what is aimed at, and asserts nothing
    ///
    /// Runs in namespaces and cgroups of its own; the machine's traffic is not touched. Needs root.
    Bench(bench::Options),
    /// Try random input against what must come of it
    ///
    /// Packets, and mutations of them, go through the built programs (attached to nothing) and through the same
    /// code on the host. The first difference fails the run, with its seed and the smallest packet that shows it.
    Fuzz(fuzz::Options),
    /// Check formatting, lints (host and BPF target), documentation and licences
    ///
    /// Warnings count as errors. All checks run, and the code that is returned says whether one of them failed.
    Check,
}

#[derive(Debug, Args)]
struct BuildEbpf {
    /// Do not build the agent, which is what loads the programs: print what the object itself tells
    #[arg(long)]
    no_load: bool,
}

/// Parses the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::BuildEbpf(args) => build_ebpf(&args),
        Verb::Build(options) => build::print_static(&options).map(|()| ExitCode::SUCCESS),
        Verb::Image(options) => image::run(&options).map(|()| ExitCode::SUCCESS),
        Verb::Test(options) => test::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Cluster => cluster::up().map(|()| ExitCode::SUCCESS),
        Verb::Bench(options) => bench::run(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Check => check::run(),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{} {error:#}", say::bold("error:"));
            ExitCode::FAILURE
        }
    }
}

fn build_ebpf(args: &BuildEbpf) -> anyhow::Result<ExitCode> {
    let object = build::object()?;
    say::line(object.display());
    programs::print(&object, !args.no_load)?;
    Ok(ExitCode::SUCCESS)
}
