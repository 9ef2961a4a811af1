"""One case in a process of its own: ``python -m benchmarks.child PART CASE FILE`` adds lines of JSON to the file."""

import json
import os
import resource
import sys

# Half a case in the swap would measure the disk. (A process that goes beyond this gets an error that is reported.)
SHARE_OF_MEMORY = 0.85


def main(part, case, path):
    limit = int(SHARE_OF_MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    with open(path, "a", encoding="utf-8", buffering=1) as file:
        try:
            for table, row in _measure(part)(json.loads(case)):
                print(json.dumps({"table": table, "row": row}), file=file)
        except Exception as error:
            print(json.dumps({"reason": f"{type(error).__name__}: {error}"}), file=file)
            raise
        from benchmarks.measure import peak_memory  # it imports JAX, as _measure has by now

        print(json.dumps({"device": _device(), "peak memory": {"bytes": peak_memory()}}), file=file)


def _measure(part):
    # Here, so that this module is light until it is known what it is to do.
    from benchmarks import features, general, growth, kernels, phases, steps, training

    return {
        "steps": steps.measure,
        "kernels": kernels.measure,
        "memory": kernels.measure_memory,
        "recording": training.measure_recording,
        "curve": training.measure_rates,
        "sweep": training.measure_sweep,
        "share": growth.measure_share,
        "growth": growth.measure_growth,
        "groups": growth.measure_groups,
        "general": general.measure,
        "phases": phases.measure,
        "features": features.measure,
    }[part]


def _device():
    import jax

    return jax.devices()[0].device_kind


if __name__ == "__main__":
    main(*sys.argv[1:])
