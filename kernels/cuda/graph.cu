/*
 * graph.cu - recorded operations: CUDA graphs, captured from the device's stream
 */
#include <stdlib.h>

#include "kernels/cuda/cuda.cuh"

struct graph {
    cudaGraphExec_t exec;
};

int cuda_record(struct device *d, struct error *err)
{
    struct cuda_device *c = cuda_enter(d);

    if (c->failed != cudaSuccess)
        return cuda_failed(err, c->failed, c->device.name);
    /* Relaxed: the first launch of a kernel loads it. */
    cudaError_t e = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeRelaxed);
    if (e != cudaSuccess) {
        cudaGetLastError();
        return cuda_failed(err, e, "operations cannot be recorded");
    }
    return 0;
}

struct graph *cuda_recorded(struct device *d, struct error *err)
{
    struct cuda_device *c = cuda_enter(d);
    struct graph *g = (struct graph *)calloc(1, sizeof(*g));
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamEndCapture(c->stream, &graph);

    if (!g) {
        error_set(err, STATUS_NOMEM, "no memory for recorded operations");
        goto fail;
    }
    if (e == cudaSuccess)
        e = c->failed;
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&g->exec, graph, 0);
    if (e == cudaSuccess)
        e = cudaGraphUpload(g->exec, c->stream);
    if (e != cudaSuccess) {
        cudaGetLastError();
        cuda_failed(err, e, "operations cannot be recorded");
        goto fail;
    }
    cudaGraphDestroy(graph);
    return g;
fail:
    if (graph)
        cudaGraphDestroy(graph);
    cuda_graph_free(d, g);
    return NULL;
}

void cuda_replay(struct device *d, struct graph *g)
{
    struct cuda_device *c = cuda_enter(d);

    cuda_note(c, cudaGraphLaunch(g->exec, c->stream));
}

void cuda_graph_free(struct device *d, struct graph *g)
{
    cuda_enter(d);
    if (g && g->exec)
        cudaGraphExecDestroy(g->exec);
    free(g);
}
