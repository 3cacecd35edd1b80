import yaml
def to_yaml(v): return yaml.safe_dump(v, sort_keys=False)
