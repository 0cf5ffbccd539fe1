//! A program that takes the place of another one in the same process.

use std::os::unix::process::CommandExt;

/// Runs this program again, in place of itself, with the verb `joined`.
pub fn exec() -> Result<String, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    Err(format!("execve: {}", std::process::Command::new(this).arg("joined").exec()))
}

/// Threads that end wake who waits for their end: by the word that the kernel clears (`CLONE_CHILD_CLEARTID`).
pub fn joined() -> Result<String, String> {
    // SAFETY: a signal that ends the process if a thread is waited for in vain.
    unsafe { libc::alarm(30) };
    for round in 0..20u64 {
        let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(move || round * 4 + n)).collect();
        for (n, thread) in threads.into_iter().enumerate() {
            let got = thread.join().map_err(|_| "a thread panicked".to_owned())?;
            if got != round * 4 + n as u64 {
                return Err(format!("round {round}: thread {n} gave {got}"));
            }
        }
    }
    Ok("80 threads".to_owned())
}
