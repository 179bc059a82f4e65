/* SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A SPANK plug-in that adds --fund to sbatch, srun and salloc: whose GPU-hours pay for the job. It
 * only passes the name on, in the job's control environment, where the submit plug-in
 * (trainyard.lua) reads it; whether its owner may spend that fund is trainyardd's affair.
 *
 * plugstack.conf:   optional /usr/lib/slurm/spank_trainyard.so
 */
#include <slurm/spank.h>
#include <string.h>

SPANK_PLUGIN(trainyard_fund, 1)

/* "group:" and a name of 64 characters. */
enum { FUND_LENGTH_MAX = 70 };

static char fund[FUND_LENGTH_MAX + 1];

static int is_name(const char *text)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				      "0123456789._@+-";
	const size_t length = strlen(text);

	return length > 0 && length <= 64 && strspn(text, allowed) == length;
}

static int is_fund(const char *text)
{
	if (strncmp(text, "user:", 5) == 0)
		return is_name(text + 5);
	if (strncmp(text, "group:", 6) == 0)
		return is_name(text + 6);
	return 0;
}

static int take_fund(int value, const char *text, int is_remote)
{
	(void)value;
	/* On the compute node it was judged already. */
	if (is_remote)
		return 0;
	if (text == NULL || !is_fund(text)) {
		slurm_error("--fund=%s is neither user:NAME nor group:NAME (letters, digits and ._@+-)", text != NULL ? text : "");
		return -1;
	}
	strncpy(fund, text, FUND_LENGTH_MAX);
	return 0;
}

static struct spank_option fund_option = {
	.name = "fund",
	.arginfo = "FUND",
	.usage = "whose GPU-hours pay: user:NAME or group:NAME (Trainyard)",
	.has_arg = 1,
	.val = 0,
	.cb = take_fund,
};

int slurm_spank_init(spank_t spank, int count, char *words[])
{
	(void)count;
	(void)words;
	switch (spank_context()) {
	case S_CTX_LOCAL:
	case S_CTX_ALLOCATOR:
	case S_CTX_REMOTE: /* srun hands its options on; they must be known there too. */
		return spank_option_register(spank, &fund_option) == ESPANK_SUCCESS ? 0 : -1;
	default:
		return 0;
	}
}

/* After the options were read, before the job is submitted. */
int slurm_spank_init_post_opt(spank_t spank, int count, char *words[])
{
	const spank_context_t context = spank_context();

	(void)count;
	(void)words;
	if (fund[0] == '\0' || (context != S_CTX_LOCAL && context != S_CTX_ALLOCATOR))
		return 0;
	/* It arrives as SPANK_TRAINYARD_FUND. */
	if (spank_job_control_setenv(spank, "TRAINYARD_FUND", fund, 1) != ESPANK_SUCCESS) {
		slurm_error("--fund=%s cannot be passed on", fund);
		return -1;
	}
	return 0;
}
