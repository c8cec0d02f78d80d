// A server in small: reads images from its input, runs them by several threads that share one network,
// and prints the number of the largest output of each.
//
//     example network.apot [workers] < images.f32
//
// images.f32: float32, as the network reads them, one image after the other.

#include "apot.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

namespace {

struct Close {
    void operator()(apot_network *network) const { apot_close(network); }
};
using Network = std::unique_ptr<apot_network, Close>;

void require_done(int status)
{
    if (status == APOT_OK)
        return;
    std::fprintf(stderr, "error: %s\n", apot_message(status));
    std::exit(1);
}

Network opened(const char *path)
{
    apot_network *network = nullptr;
    require_done(apot_open(&network, path, nullptr));
    return Network(network);
}

std::vector<float> images_of(std::FILE *file, std::size_t image)
{
    std::vector<float> found;
    std::vector<float> one(image);
    while (std::fread(one.data(), sizeof(float), image, file) == image)
        found.insert(found.end(), one.begin(), one.end());
    return found;
}

} // namespace

int main(int count, char **words)
{
    int workers = count > 2 ? std::atoi(words[2]) : 2;
    if (count < 2 || workers < 1) {
        std::fprintf(stderr, "usage: %s network.apot [workers] < images.f32\n", words[0]);
        return 2;
    }
    const Network network = opened(words[1]);
    const auto outputs = static_cast<std::size_t>(apot_outputs(network.get()));
    const auto image = static_cast<std::size_t>(
        apot_channels(network.get()) * apot_height(network.get()) * apot_width(network.get()));
    const std::vector<float> given = images_of(stdin, image);
    const std::size_t images = given.size() / image;
    std::vector<float> found(images * outputs);

    // Each worker has a workspace of its own, taken once, and runs one image at a time.
    std::vector<std::thread> threads;
    for (int worker = 0; worker < workers; worker++)
        threads.emplace_back([&, worker] {
            std::vector<char> workspace(apot_workspace_bytes(network.get(), 1));
            for (std::size_t i = static_cast<std::size_t>(worker); i < images; i += static_cast<std::size_t>(workers))
                require_done(apot_run(
                    network.get(), &given[i * image], 1, &found[i * outputs], 1, workspace.data()));
        });
    for (std::thread &thread : threads)
        thread.join();

    std::fprintf(stderr, "%zu images on %s\n", images, apot_kernels(network.get()));
    for (std::size_t i = 0; i < images; i++) {
        const float *first = &found[i * outputs];
        std::printf("%td\n", std::max_element(first, first + outputs) - first);
    }
}
