/* SPDX-License-Identifier: PostgreSQL */
#include "auth/pam.h"

#include <stdio.h>

#ifdef PGSHUNT_PAM

#include "base/mem.h"

#include <security/pam_appl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Gives the password to whoever asks for something that is not to be seen; questions of another kind
 * have no answer.  The responses are PAM's to free. */
static int pam_answer(int count, const struct pam_message **messages,
                      struct pam_response **responses, void *arg)
{
	const struct pam_question *question = arg;
	struct pam_response *given;

	if (count < 1 || count > PAM_MAX_NUM_MSG)
		return PAM_CONV_ERR;
	given = calloc((size_t)count, sizeof(*given));
	if (given == NULL)
		return PAM_BUF_ERR;
	for (int i = 0; i < count; i++) {
		if (messages[i]->msg_style != PAM_PROMPT_ECHO_OFF)
			continue;
		given[i].resp = strdup(question->password);
		if (given[i].resp != NULL)
			continue;
		while (i-- > 0)
			mem_free_secret(given[i].resp);
		free(given);
		return PAM_BUF_ERR;
	}
	*responses = given;
	return PAM_SUCCESS;
}

/* The next client is not to wait because the one before gave a wrong password. */
static void pam_no_delay(int result, unsigned usec, void *arg)
{
	(void)result;
	(void)usec;
	(void)arg;
}

static int pam_ask(pam_handle_t *pam, const struct pam_question *question)
{
	void (*const delay)(int, unsigned, void *) = pam_no_delay;
	const void *item;
	int rc = PAM_SUCCESS;

	memcpy(&item, &delay, sizeof(item));
	(void)pam_set_item(pam, PAM_FAIL_DELAY, item);
	if (question->host[0] != '\0')
		rc = pam_set_item(pam, PAM_RHOST, question->host);
	if (rc == PAM_SUCCESS)
		rc = pam_authenticate(pam, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
	/* Expired, or not at this hour. */
	if (rc == PAM_SUCCESS)
		rc = pam_acct_mgmt(pam, PAM_SILENT | PAM_DISALLOW_NULL_AUTHTOK);
	return rc;
}

bool pam_is_available(void)
{
	return true;
}

bool pam_check(const struct pam_question *question, char *why, size_t why_size)
{
	struct pam_conv conversation = {.conv = pam_answer,
	                                .appdata_ptr = (void *)(uintptr_t)question};
	pam_handle_t *pam = NULL;
	int rc;

	rc = question->directory[0] == '\0'
	         ? pam_start(question->service, question->user, &conversation, &pam)
	         : pam_start_confdir(question->service, question->user, &conversation,
	                             question->directory, &pam);
	if (rc == PAM_SUCCESS)
		rc = pam_ask(pam, question);
	if (rc != PAM_SUCCESS)
		(void)snprintf(why, why_size, "PAM service \"%.40s\": %s", question->service,
		               pam_strerror(pam, rc));
	if (pam != NULL)
		(void)pam_end(pam, rc);
	return rc == PAM_SUCCESS;
}

#else

bool pam_is_available(void)
{
	return false;
}

bool pam_check(const struct pam_question *question, char *why, size_t why_size)
{
	(void)question;
	(void)snprintf(why, why_size, "built without PAM");
	return false;
}

#endif
