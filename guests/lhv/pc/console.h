/* The console: COM1. */
#pragma once

void console_start(void);
void console_write(const char *text);
