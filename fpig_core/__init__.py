"""The mathematics of F-Pig and its neighbours: models, losses, metrics, index, frame sampling.

Runs on a laptop, starts no process and opens no connection.

Shape letters at the end of tensor names:
    Q queries (captions)    B videos of this worker    G videos of the global batch
    F frames                P patches of one frame     M global tokens (CLS, added_cls)
    N visual tokens         K tokens kept by the selector, candidates kept by a first stage
    L words                 D width of the shared space    V width of the vision tower
    S tokens of one frame   W width of the text tower      n pairs of a text and a video
    R searchers, queries or videos    E resamples of a bootstrap
"""
