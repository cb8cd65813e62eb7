// Threads, signals, files, memory, time and TLS: enough to go through most of the C library's syscall sites.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static _Thread_local int local = 7;
static volatile int signalled;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int counter;

static void check(int ok, int line) {
    if (!ok) {
        printf("line %d: errno %d\n", line, errno);
        exit(1);
    }
}
#define CHECK(x) check((x), __LINE__)

static void on_signal(int number) { signalled = number; }

static void *work(void *argument) {
    local += (int)(long)argument;
    for (int i = 0; i < 200; i++) {
        pthread_mutex_lock(&lock);
        counter++;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&lock);
        if (i % 50 == 0) usleep(100);
    }
    return (void *)(long)local;
}

int main(void) {
    pthread_t threads[8];
    for (long i = 0; i < 8; i++) CHECK(pthread_create(&threads[i], 0, work, (void *)i) == 0);
    pthread_mutex_lock(&lock);
    while (counter < 8 * 200) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    for (long i = 0; i < 8; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        CHECK((long)result == 7 + i);
    }
    struct sigaction action = {.sa_handler = on_signal};
    CHECK(sigaction(SIGUSR1, &action, 0) == 0);
    CHECK(raise(SIGUSR1) == 0 && signalled == SIGUSR1);
    int ends[2];
    char text[6] = "";
    CHECK(pipe(ends) == 0 && write(ends[1], "hello", 5) == 5);
    struct pollfd ready = {.fd = ends[0], .events = POLLIN};
    CHECK(poll(&ready, 1, 0) == 1 && read(ends[0], text, 5) == 5 && !strcmp(text, "hello"));
    struct iovec parts[2] = {{"a", 1}, {"bc", 2}};
    CHECK(writev(ends[1], parts, 2) == 3 && read(ends[0], text, 3) == 3);
    int queue = epoll_create1(0);
    CHECK(queue >= 0 && close(queue) == 0);
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0 && send(sockets[0], "x", 1, 0) == 1 && recv(sockets[1], text, 1, 0) == 1);
    char *memory = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    memset(memory, 1, 1 << 20);
    CHECK(mprotect(memory, 4096, PROT_READ) == 0 && munmap(memory, 1 << 20) == 0);
    for (int i = 0; i < 100; i++) free(malloc(i * 10000));
    CHECK(open("/nonexistent/file", O_RDONLY) == -1 && errno == ENOENT);
    CHECK(syscall(SYS_getpid) == getpid());
    struct timespec time = {0, 1000};
    CHECK(nanosleep(&time, 0) == 0 && clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    pid_t child = fork();
    if (child == 0) _exit(3);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 3);
    CHECK(system("exit 5") == 5 << 8);
    puts("all right");
    return 0;
}
