/* SPDX-License-Identifier: PostgreSQL */
#include "core/mail.h"

#include <stdlib.h>
#include <string.h>

void *mail_new(size_t size, enum mail_type type)
{
	struct letter *letter = calloc(1, size);

	if (letter != NULL)
		letter->type = (int)type;
	return letter;
}

struct mail_database *mail_new_database(enum mail_type type, const char *name)
{
	struct mail_database *mail = mail_new(sizeof(*mail), type);

	if (mail == NULL)
		return NULL;
	mail->name = strdup(name);
	if (mail->name == NULL) {
		free(mail);
		return NULL;
	}
	return mail;
}

void mail_free_database(struct mail_database *mail)
{
	free(mail->name);
	free(mail->server);
	free(mail->text);
	free(mail);
}

void mail_free_welcome(struct mail_welcome *mail)
{
	free(mail->database);
	free(mail->user);
	free(mail->params);
	free(mail);
}
