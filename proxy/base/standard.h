/* SPDX-License-Identifier: PostgreSQL */
#ifndef BASE_STANDARD_H
#define BASE_STANDARD_H

/* Files 0, 1 and 2 are there afterwards: whoever starts us may have closed them, and what is written
 * to them must not go to a server, a client or the journal that has got such a number.  Call first. */
void standard_files_open(void);

#endif
