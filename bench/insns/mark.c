/* Make the plugin write down its count. */
#include "magic.h"

#define STRING(...) #__VA_ARGS__
#define BYTES(...) ".byte " STRING(__VA_ARGS__)

int main(void)
{
	__asm__ volatile(BYTES(MAGIC));
	return 0;
}
