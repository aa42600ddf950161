"""What the command line composes: one run, from its settings to the files it leaves behind.

    settings --> session (worker, memory, agent, trainer) --> journal --> display, TensorBoard
                                                                 `--> folder: policy, curve, summary

It stands at the top with `tmrl.cli`: nothing in the library imports it.
"""
