//! A kernel, the verbs library and qemu from Debian's archive: unpacked into a folder of ours, never installed.

use std::fs::DirEntry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An unpacked set of packages, kept from run to run as long as the archive has the same versions.
pub struct Packages {
    root: PathBuf,
    /// Whether qemu is among them, because this host has none.
    has_qemu: bool,
}

impl Packages {
    /// Has them ready in the folder `cache`, or says why that cannot be.
    ///
    /// # Errors
    /// This host is another than Debian's, or cannot reach its archive.
    pub fn ready(cache: &Path) -> Result<Self, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err("the machine is an x86-64".to_owned());
        }
        for tool in ["apt-get", "dpkg-deb", "tar", "ip", "rdma"] {
            if find(tool).is_none() {
                return Err(format!("{tool} is not installed"));
            }
        }
        Packages::of_archive(cache).or_else(|_| {
            // Its lists are missing, or name what it has replaced since.
            output("apt-get", &["update", "-q"])?;
            Packages::of_archive(cache)
        })
    }

    /// The newest that the archive's lists know.
    fn of_archive(cache: &Path) -> Result<Self, String> {
        let (names, has_qemu) = names()?;
        let files = files(&names)?;
        let mut hasher = DefaultHasher::new();
        (&files, MODULES).hash(&mut hasher);
        let root = cache.join(format!("{:016x}", hasher.finish()));
        if !root.exists() {
            let at_cache = |error: io::Error| format!("{}: {error}", cache.display());
            std::fs::create_dir_all(cache).map_err(at_cache)?;
            let fresh = tempfile::tempdir_in(cache).map_err(at_cache)?;
            unpack(&names, fresh.path())?;
            // Whole or not there. Another run may have been quicker.
            let renamed = std::fs::rename(fresh.path().join("root"), &root);
            renamed.or_else(|error| if root.exists() { Ok(()) } else { Err(error.to_string()) })?;
        }
        Ok(Packages { root, has_qemu })
    }

    /// A file of a package, by its path there. Newer releases have everything in `/usr`.
    pub fn file(&self, path: &str) -> PathBuf {
        let there = self.root.join(path);
        if there.exists() { there } else { self.root.join("usr").join(path) }
    }

    /// The kernel that boots.
    ///
    /// # Errors
    /// The folder was changed since.
    pub fn kernel(&self) -> io::Result<PathBuf> {
        let boot = self.root.join("boot");
        let is_kernel = |entry: &DirEntry| entry.file_name().to_string_lossy().starts_with("vmlinuz-");
        let kernel = std::fs::read_dir(boot)?.filter_map(Result::ok).find(is_kernel);
        kernel.map(|entry| entry.path()).ok_or_else(|| io::Error::other("no kernel in its package"))
    }

    /// A module of the kernel, by name. Not every release has each: what is built in has no file.
    pub fn module(&self, name: &str) -> Option<PathBuf> {
        let mut folders = vec![self.file("lib/modules")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).ok()?.filter_map(Result::ok) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if entry.file_name().to_string_lossy().split('.').next() == Some(name) {
                    return Some(path);
                }
            }
        }
        None
    }

    /// qemu, with what it needs to find its own files.
    pub fn qemu(&self) -> Command {
        if !self.has_qemu {
            return Command::new(QEMU);
        }
        let mut command = Command::new(self.root.join("usr/bin").join(QEMU));
        let libraries =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|folder| self.root.join(folder));
        // A folder whose name has a colon in it is of no use there.
        command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).unwrap_or_default());
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.root.join(folder));
        }
        command
    }
}

/// What a program of this name is, by `PATH` and where administrators' tools are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|program| program.is_file())
}

/// The packages, and whether qemu is among them.
fn names() -> Result<(Vec<String>, bool), String> {
    let mut names: Vec<_> = GUEST.map(str::to_owned).into();
    names.push(kernel()?);
    let missing = find(QEMU).is_none();
    if missing {
        // What qemu needs and this host does not have.
        let fetched = ["install", "--print-uris", "-qq", "-y", "--no-install-recommends", "qemu-system-x86"];
        let files = output("apt-get", &fetched)?;
        names.extend(files.lines().filter_map(|line| Some(file(line)?.split('_').next()?.to_owned())));
    }
    names.sort();
    names.dedup();
    Ok((names, missing))
}

/// The package that the newest kernel's name stands for. That for clouds has no RDMA.
fn kernel() -> Result<String, String> {
    let depends = output("apt-cache", &["depends", "linux-image-amd64"])?;
    let mut names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let kernel = names.find(|name| name.starts_with("linux-image-") && !name.ends_with("-unsigned"));
    kernel.map(str::to_owned).ok_or_else(|| "no kernel in the archive".to_owned())
}

/// The names of the packages' files, versions included.
fn files(names: &[String]) -> Result<Vec<String>, String> {
    let mut arguments = vec!["download", "--print-uris", "-qq"];
    arguments.extend(names.iter().map(String::as_str));
    let files = output("apt-get", &arguments)?;
    Ok(files.lines().filter_map(|line| Some(file(line)?.to_owned())).collect())
}

/// The second word of a line that apt prints: `'URI' FILE SIZE HASH`.
fn file(line: &str) -> Option<&str> {
    line.split_whitespace().nth(1)
}

/// Fetches the packages into a folder and unpacks them into `root` there.
fn unpack(names: &[String], folder: &Path) -> Result<(), String> {
    let packages = folder.join("packages");
    let root = folder.join("root");
    for folder in [&packages, &root] {
        std::fs::create_dir(folder).map_err(|error| error.to_string())?;
    }
    let mut apt = Command::new("apt-get");
    // As whoever runs this: apt's own user cannot write here.
    apt.args(["download", "-qq", "-o", "APT::Sandbox::User="]).args(names).current_dir(&packages);
    said(&mut apt)?;
    for entry in std::fs::read_dir(&packages).map_err(|error| error.to_string())? {
        let package = entry.map_err(|error| error.to_string())?.path();
        // A kernel is mostly modules for hardware that the machine does not have.
        let is_kernel =
            package.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-image-"));
        let patterns = if is_kernel { patterns_of_kernel() } else { Vec::new() };
        extract(&package, &root, &patterns)?;
    }
    Ok(())
}

/// What is wanted of a kernel's package. Some releases compress their modules.
fn patterns_of_kernel() -> Vec<String> {
    let modules = MODULES.map(|name| format!("*/{name}.ko*"));
    std::iter::once("./boot/vmlinuz-*".to_owned()).chain(modules).collect()
}

/// Unpacks a package, or those files of it that match a pattern.
fn extract(package: &Path, to: &Path, patterns: &[String]) -> Result<(), String> {
    let archive = Command::new("dpkg-deb").arg("--fsys-tarfile").arg(package).stdout(Stdio::piped()).spawn();
    let mut archive = archive.map_err(|error| format!("dpkg-deb: {error}"))?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--wildcards", "-C"]).arg(to).args(patterns).stderr(Stdio::null());
    let tar = tar.stdin(archive.stdout.take().map_or(Stdio::null(), Stdio::from)).status();
    let read = archive.wait().is_ok_and(|status| status.success());
    // A pattern without a match is a fault to tar: what a kernel has built in is no file.
    let done = read && tar.is_ok_and(|status| status.success() || !patterns.is_empty());
    if done { Ok(()) } else { Err(format!("{} cannot be unpacked", package.display())) }
}

fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    said(Command::new(program).args(arguments))
}

/// What a program said, or why it failed.
fn said(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", errors.lines().last().unwrap_or("failed")))
}

const QEMU: &str = "qemu-system-x86_64";

/// Beside the kernel, what runs in the machine and is no part of this host.
const GUEST: [&str; 5] =
    ["busybox-static", "ibverbs-providers", "libibverbs1", "libnl-3-200", "libnl-route-3-200"];

/// Modules of the kernel, in the order in which they need each other: soft-RoCE, cables, what sidecars redirect with, and thin
/// links.
pub const MODULES: [&str; 19] = [
    "crc32_generic",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "ib_core",
    "ib_uverbs",
    "rdma_rxe",
    "veth",
    "tun",
    "crc32c_generic",
    "libcrc32c",
    "nfnetlink",
    "nf_defrag_ipv4",
    "nf_defrag_ipv6",
    "nf_conntrack",
    "nf_nat",
    "nf_tables",
    "nft_chain_nat",
    "nft_redir",
    "sch_tbf",
];
