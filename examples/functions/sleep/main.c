// Waits a second.
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    sleep(1);
    printf("{\"result\":1}");
    return 0;
}
