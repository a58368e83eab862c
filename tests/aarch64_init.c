/* The first process of the emulated machine. Runs what /tests lists, a line
 * each: program, argument and, optionally, a variable of the environment. Says
 * on the console how each one ended; then turns the machine off. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS = 100 }; /* for one test, which one that hangs must not use up for all */

static int run(const char *program, const char *argument, char *setting)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0) {
		if (setting)
			putenv(setting);
		alarm(SECONDS); /* execl keeps it */
		execl(program, program, argument, (char *)NULL);
		_exit(127);
	}
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(void)
{
	char line[256];
	FILE *tests;

	mkdir("/proc", 0555);
	mount("proc", "/proc", "proc", 0, NULL);
	setvbuf(stdout, NULL, _IOLBF, 0);
	tests = fopen("/tests", "r");
	while (tests && fgets(line, sizeof(line), tests)) {
		const char *program = strtok(line, " \n"), *argument = strtok(NULL, " \n");

		printf("begin %s %s\n", program, argument);
		printf("exit %d\n", run(program, argument, strtok(NULL, " \n")));
	}
	puts("all done");
	reboot(RB_POWER_OFF);
	return 0;
}
