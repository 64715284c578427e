/*
 * User-mode Linux 6.12 keeps 2696 bytes of what a processor's vector units hold. Where they hold more, as with AMX, the host takes a process's
 * registers only whole, and the guest dies with "ptrace set fp regs failed". It runs nothing that uses AMX, so the rest is zero: loaded
 * before libc, this adds it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { GETREGSET = 0x4204, SETREGSET = 0x4205, X86_XSTATE = 0x202 };

/* Not on the stack, which is a thread's of the guest's kernel. That has one processor and is not preempted. */
static char whole[1 << 16] __attribute__((aligned(64)));
static size_t size;

static long call(long request, pid_t pid, void *address, void *data) { return syscall(SYS_ptrace, request, pid, address, data); }

long ptrace(int request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	pid_t pid = va_arg(arguments, pid_t);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	/* As libc's: what a peek reads is the result. */
	if (request >= 1 && request <= 3) {
		long word;
		long status = call(request, pid, address, &word);
		if (status < 0)
			return status;
		errno = 0;
		return word;
	}
	if (request != SETREGSET || (long)address != X86_XSTATE)
		return call(request, pid, address, data);

	struct iovec *given = data;
	if (size == 0) {
		struct iovec all = { whole, sizeof whole };
		long status = call(GETREGSET, pid, address, &all);
		if (status < 0)
			return status;
		size = all.iov_len;
		memset(whole, 0, sizeof whole);
	}
	if (given->iov_len >= size)
		return call(request, pid, address, data);
	struct iovec all = { whole, size };
	memcpy(whole, given->iov_base, given->iov_len);
	return call(request, pid, address, &all);
}
