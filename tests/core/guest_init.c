/* The first process of an emulated machine. Runs what /tests lists, a line each: variables
 * of the environment, a program and its arguments. Says on the console how each one
 * ended; then turns the machine off. */
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS = 250, WORDS = 32 }; /* for one line, which one that hangs must not use up for all */

static void exec(char **words)
{
	while (*words && strchr(*words, '='))
		putenv(*words++);
	alarm(SECONDS); /* execv keeps it */
	execv(words[0], words);
	perror(words[0]);
	_exit(127);
}

static int run(char *line)
{
	char *words[WORDS + 1] = { NULL };
	int status = 0, count = 0;
	pid_t child;

	for (char *word = strtok(line, " \n"); word && count < WORDS; word = strtok(NULL, " \n"))
		words[count++] = word;
	child = fork();
	if (child == 0)
		exec(words);
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void mount_all(void)
{
	static const char *const types[][2] = {
		{ "proc", "/proc" }, { "sysfs", "/sys" }, { "devtmpfs", "/dev" }, { "tmpfs", "/tmp" },
		{ "tmpfs", "/dev/shm" }, { "devpts", "/dev/pts" },
	};

	for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
		mkdir(types[i][1], 0755);
		mount(types[i][0], types[i][1], types[i][0], 0, NULL);
	}
}

static void bring_up_loopback(void)
{
	struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
}

int main(void)
{
	char line[1024];
	FILE *tests;

	mount_all();
	bring_up_loopback();
	setvbuf(stdout, NULL, _IOLBF, 0);
	tests = fopen("/tests", "r");
	while (tests && fgets(line, sizeof(line), tests)) {
		printf("begin %s", line);
		printf("exit %d\n", run(line));
	}
	puts("all done");
	reboot(RB_POWER_OFF);
	return 0;
}
