/*
 * PID 1 of the test guest: mount what the scripts need, run the one named on the kernel command line
 * (after "--"), tell the verdict, power off. RIG_LIMIT= on the command line is the time limit in seconds.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEBUG_EXIT_PORT 0xf4	/* QEMU's isa-debug-exit */

/* One write to /dev/kmsg is one console line, never torn by the kernel's own. */
static void tell(const char *fmt, ...)
{
	char line[512] = "rig: ";
	va_list ap;
	int fd;

	va_start(ap, fmt);
	vsnprintf(line + 5, sizeof(line) - 5, fmt, ap);
	va_end(ap);
	fd = open("/dev/kmsg", O_WRONLY);
	if (fd < 0)
		return;
	if (write(fd, line, strlen(line)) < 0)
		perror("kmsg");
	close(fd);
}

static void attach(const char *src, const char *dir, const char *type, const char *opts)
{
	mkdir(dir, 0755);
	if (mount(src, dir, type, 0, opts))
		tell("init: cannot mount %s on %s: %s", type, dir, strerror(errno));
}

static void sysrq(const char *keys)
{
	int fd = open("/proc/sysrq-trigger", O_WRONLY);

	for (; fd >= 0 && *keys; keys++)
		if (write(fd, keys, 1) < 0)
			break;
	if (fd >= 0)
		close(fd);
}

static time_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

/* Run fn in a child for at most some seconds; a child that hangs in the kernel is left behind. */
static void bounded(void (*fn)(void), int seconds)
{
	time_t end = now() + seconds;
	pid_t pid = fork();

	if (!pid) {
		fn();
		_exit(0);
	}
	while (waitpid(pid, NULL, WNOHANG) == 0 && now() < end)
		usleep(10000);
}

static void power_off(void)
{
	reboot(RB_POWER_OFF);
}

/* Power off as a machine does, which also prints what is left to print; a hung driver cannot keep us. */
static void finish(int status)
{
	bounded(sync, 10);
	tell("verdict %s", status ? "fail" : "pass");
	bounded(power_off, 10);
	tell("init: power off hangs");
	sleep(1);
	if (!ioperm(DEBUG_EXIT_PORT, 4, 1))
		outl(status, DEBUG_EXIT_PORT);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	const char *limit = getenv("RIG_LIMIT");
	time_t end = now() + (limit ? atoi(limit) : 600);
	int status, result = 1, fd;
	char script[256];
	pid_t pid, got;

	attach("dev", "/dev", "devtmpfs", NULL);
	attach("proc", "/proc", "proc", NULL);
	attach("sys", "/sys", "sysfs", NULL);
	attach("tmp", "/tmp", "tmpfs", NULL);
	attach("debug", "/sys/kernel/debug", "debugfs", NULL);
	attach("tracing", "/sys/kernel/tracing", "tracefs", NULL);
	mkdir("/dev/shm", 0755);
	attach("shm", "/dev/shm", "tmpfs", NULL);
	attach("results", "/results", "9p", "trans=virtio,version=9p2000.L,msize=65536");

	if (argc < 2) {
		tell("init: no script on the kernel command line");
		finish(1);
	}
	tell("init: up after %ld s, running %s", (long)now(), argv[1]);
	snprintf(script, sizeof(script), "/test/%s", argv[1]);

	pid = fork();
	if (!pid) {
		setsid();
		fd = open("/dev/null", O_RDONLY);
		dup2(fd, 0);
		fd = open("/results/output.log", O_WRONLY | O_CREAT | O_APPEND, 0644);
		if (fd >= 0) {
			dup2(fd, 1);
			dup2(fd, 2);
		}
		setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
		setenv("HOME", "/tmp", 1);
		argv[0] = "sh";
		argv[1] = script;
		execv("/bin/sh", argv);
		_exit(127);
	}

	for (;;) {
		got = waitpid(-1, &status, WNOHANG);
		if (got == pid) {
			result = !WIFEXITED(status) || WEXITSTATUS(status);
			break;
		}
		if (got <= 0)
			usleep(20000);
		if (now() >= end) {
			tell("init: time limit of %s s reached; blocked tasks and CPUs follow", limit ? limit : "600");
			sysrq("wl");
			sleep(2);
			break;
		}
	}
	finish(result);
	return 0;
}
