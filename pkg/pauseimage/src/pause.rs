//! The sandbox process: holds a pod's namespaces, reaps what is orphaned into it, ends when told to.
//!
//! Compiled by the build script without the standard library into a few kilobytes. System call numbers and the signal
//! set layout are Linux's for the architectures below.
#![no_std]
#![no_main]

use core::arch::asm;

const SIGINT: u64 = 2;
const SIGTERM: u64 = 15;
const SIGCHLD: u64 = 17;
const WNOHANG: usize = 1;
const SIG_BLOCK: usize = 0;

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const EXIT_GROUP: usize = 94;
    pub const RT_SIGPROCMASK: usize = 135;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
}

/// SAFETY: callers pass arguments that are right for the call; pointers point to live stack variables or are null.
unsafe fn syscall(number: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    // Bit n-1 stands for signal n. Blocked signals are taken one by one by rt_sigtimedwait.
    let set: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let pointer = &raw const set as usize;
    // SAFETY: `set` lives as long as this function, which never returns; no other memory is passed.
    unsafe {
        syscall(number::RT_SIGPROCMASK, SIG_BLOCK, pointer, 0, 8);
        loop {
            match syscall(number::RT_SIGTIMEDWAIT, pointer, 0, 0, 8) as u64 {
                SIGINT | SIGTERM => {
                    syscall(number::EXIT_GROUP, 0, 0, 0, 0);
                }
                _ => while syscall(number::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {},
            }
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
