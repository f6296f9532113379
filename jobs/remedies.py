"""What to do about each thing that can be wrong with a shard or a sample in it."""

_WRITE_AGAIN = "copy or write the shard again"
_RE_ENCODE = "re-encode the video, to H.264 in mp4 for one, or leave it out"

REMEDIES = {
    # the shard as a whole
    "empty_shard": f"{_WRITE_AGAIN}, or remove it",
    "no_samples": "remove the shard, or check the suffixes: mp4, mov, mkv, webm, avi, jpg, png, webp with json or txt",
    "compressed": "unpack it to a plain .tar: videos gain nothing by gzip, and ranges cannot be read from it",
    "not_a_tar": f"{_WRITE_AGAIN}: this is no tar",
    "bad_header": f"{_WRITE_AGAIN}: what follows the damage is lost",
    "cut_member": f"{_WRITE_AGAIN}: the upload or the writer stopped early",
    "no_end": f"{_WRITE_AGAIN}: the upload or the writer stopped early, perhaps between two samples",
    "after_end": "write each tar to a file of its own: what follows the first end is not read",
    # members that do not lie as others expect
    "scattered": "nothing for use here; for other readers write the members of a sample one after the other",
    "mixed_case": "give the members of one sample exactly the same name before the dot",
    "not_in_tar": "download the shard again: the table beside it names samples that it lost",
    # samples, from the shard alone
    "no_video": "add the video, or remove the text; look for a name that differs in upper and lower case",
    "not_downloaded": "download it again if the reason may pass; else nothing: the video is gone",
    "many_videos": "keep one video (or one image) for each key",
    "empty_video": "write the video again, or leave the sample out",
    "bad_json": 'write an object such as {"captions": ["…"], "video_id": "…"} in UTF-8',
    "bad_text": "save the captions as UTF-8, one a line",
    "bad_segment": "give start_s and end_s in seconds, with 0 <= start_s < end_s, and none for images",
    "text_too_large": "shorten the captions: only their first words are used",
    "duplicate_key": "give every sample of the shard its own key",
    "dotted_key": "replace the dots in the key, by _ for one",
    # samples, from their bytes
    "bad_suffix": f"name the file by what it is; else {_RE_ENCODE}",
    "too_large": "shrink or cut the video",
    "bad_container": f"name the file by what it is; if it is damaged, {_RE_ENCODE}",
    "no_stream": "leave the sample out: it has no pictures",
    "no_decoder": _RE_ENCODE,
    "no_frames": "leave the sample out: it has no pictures",
    "bad_stream": f"download it again, for it may be cut; else {_RE_ENCODE}",
    "empty_segment": "give a segment inside the video",
    "bad_frames": "store the frames again with python -m jobs.cache_frames, at the size the model wants",
    "too_slow": "make it quick to enter: python -m jobs.write_shards --transcode; else leave it out",
    "decoder_crashed": f"download it again, for it may be damaged; else {_RE_ENCODE}",
    "bad_image": "download the image again, or leave it out",
}
